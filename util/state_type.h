// What a field of a saved state can be. See saved_state.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace rhea {

/// The type byte of a field. Part of the format: new ones are added at the end.
enum class StateType : uint8_t {
  kBool = 1,
  kU8,
  kU16,
  kU32,
  kU64,
  kI64,
  kBytes,
  kString,
  kStruct,
  kList,
};

/// As it stands in a schema; "unknown" for a byte that is no type.
std::string_view to_string(StateType type) noexcept;
/// Of a number, in the bytes; 0 for what carries its own length.
size_t size_of_number(StateType type) noexcept;

inline constexpr size_t kMaxStateName = 48;
inline constexpr size_t kMaxStateDepth = 8;
/// Of one encoded state.
inline constexpr size_t kMaxStateBytes = size_t{16} << 20;

namespace internal {
template <class T>
inline constexpr std::optional<StateType> kStateTypeOf = std::nullopt;
template <>
inline constexpr std::optional<StateType> kStateTypeOf<bool> = StateType::kBool;
template <>
inline constexpr std::optional<StateType> kStateTypeOf<uint8_t> = StateType::kU8;
template <>
inline constexpr std::optional<StateType> kStateTypeOf<uint16_t> = StateType::kU16;
template <>
inline constexpr std::optional<StateType> kStateTypeOf<uint32_t> = StateType::kU32;
template <>
inline constexpr std::optional<StateType> kStateTypeOf<uint64_t> = StateType::kU64;
template <>
inline constexpr std::optional<StateType> kStateTypeOf<int64_t> = StateType::kI64;
}  // namespace internal

template <class T>
concept StateNumber = internal::kStateTypeOf<T>.has_value();

}  // namespace rhea
