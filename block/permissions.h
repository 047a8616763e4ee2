// Permissions: what the user of a node may do with it, and what it lets others do meanwhile.
#pragma once

#include <cstdint>
#include <string>

namespace rhea::block {

/// A set of rights on a node's data.
enum class Perm : uint8_t {
  kNone = 0,
  kConsistentRead = 1,  ///< what is read makes sense (not half of somebody's copy)
  kWrite = 2,
  kWriteUnchanged = 4,  ///< writes that do not change what is read (filling in a copy)
  kResize = 8,
  kAll = 15,
};
constexpr Perm operator|(Perm a, Perm b) {
  return static_cast<Perm>(static_cast<uint8_t>(a) | static_cast<uint8_t>(b));
}
constexpr Perm operator&(Perm a, Perm b) {
  return static_cast<Perm>(static_cast<uint8_t>(a) & static_cast<uint8_t>(b));
}
constexpr Perm operator~(Perm a) {
  return static_cast<Perm>(~static_cast<uint8_t>(a) & static_cast<uint8_t>(Perm::kAll));
}
constexpr bool contains(Perm set, Perm part) { return (set & part) == part; }

/// "consistent read, write".
std::string to_string(Perm perms);

/// What an edge asks for.
/// Invariants: an edge is granted only if no other edge of the node lacks in `shared` what this one
/// has in `taken`, and the other way round.
struct Permissions {
  Perm taken = Perm::kNone;
  Perm shared = Perm::kAll;
  friend bool operator==(const Permissions&, const Permissions&) = default;
};

}  // namespace rhea::block
