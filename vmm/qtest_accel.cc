#include "vmm/qtest_accel.h"

#include <utility>

namespace rhea::vmm {
namespace {

class PreparedClock final : public PreparedState {
 public:
  PreparedClock(VmClock& clock, const VmClockState& state) : clock_(clock), state_(state) {}
  Result<void> apply() override REQUIRES(bql) {
    clock_.load(state_);
    return ok();
  }

 private:
  VmClock& clock_;
  const VmClockState state_;
};

}  // namespace

Result<std::vector<StateSection>> QtestAccel::save_state() {
  std::vector<StateSection> sections;
  sections.push_back(make_section(VmClock::kSection, clock_.save()));
  return sections;
}

Result<std::unique_ptr<PreparedState>> QtestAccel::prepare_state(
    std::span<const StateSection> sections) {
  SectionReader reader(sections);
  const auto state = TRY(reader.take<VmClockState>(VmClock::kSection));
  TRY(reader.finish());
  if (auto possible = clock_.check(state); !possible) {
    return std::move(possible).error().context(VmClock::kSection);
  }
  return std::unique_ptr<PreparedState>(std::make_unique<PreparedClock>(clock_, state));
}

std::string QtestAccel::describe_state() const {
  return fmt::format("{}\n{}", VmClock::kSection, state_schema<VmClockState>());
}

}  // namespace rhea::vmm
