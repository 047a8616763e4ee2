#include "util/state_type.h"

#include <array>

namespace rhea {
namespace {

struct Row {
  std::string_view name;
  size_t size;  // 0 if it carries its own length
};

/// By type byte.
constexpr std::array kRows{Row{"unknown", 0}, Row{"bool", 1},   Row{"u8", 1},  Row{"u16", 2},
                           Row{"u32", 4},     Row{"u64", 8},    Row{"i64", 8}, Row{"bytes", 0},
                           Row{"string", 0},  Row{"struct", 0}, Row{"list", 0}};
static_assert(kRows.size() == static_cast<size_t>(StateType::kList) + 1);

const Row& row(StateType type) {
  const auto index = static_cast<size_t>(type);
  return kRows[index < kRows.size() ? index : 0];
}

}  // namespace

std::string_view to_string(StateType type) noexcept { return row(type).name; }
size_t size_of_number(StateType type) noexcept { return row(type).size; }

}  // namespace rhea
