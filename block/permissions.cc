#include "block/permissions.h"

#include <array>
#include <string_view>

namespace rhea::block {

std::string to_string(Perm perms) {
  constexpr std::array<std::pair<Perm, std::string_view>, 4> kNames{
      {{Perm::kConsistentRead, "consistent read"},
       {Perm::kWrite, "write"},
       {Perm::kWriteUnchanged, "write unchanged"},
       {Perm::kResize, "resize"}}};
  std::string text;
  for (const auto& [perm, name] : kNames) {
    if (!contains(perms, perm)) continue;
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

}  // namespace rhea::block
