#include "devices/scsi/unit_attentions.h"

#include <algorithm>

namespace rhea::devices {
namespace {

/// 0 is the strongest.
enum class Strength : uint8_t { kPowerOn, kBusReset, kUnitReset, kNexusLoss, kOther };

Strength strength_of(const ScsiSense& condition) {
  constexpr uint8_t kResets = 0x29;
  if (condition.asc != kResets) return Strength::kOther;
  if (condition.ascq <= sense::kPowerOn.ascq) return Strength::kPowerOn;
  if (condition.ascq == sense::kBusReset.ascq) return Strength::kBusReset;
  return condition.ascq == sense::kNexusLoss.ascq ? Strength::kNexusLoss : Strength::kUnitReset;
}

}  // namespace

void UnitAttentions::establish(const ScsiSense& condition) {
  const Strength strength = strength_of(condition);
  if (strength == Strength::kOther) {
    if (std::ranges::find(waiting_, condition) == waiting_.end()) waiting_.push_back(condition);
    return;
  }
  std::erase_if(waiting_,
                [strength](const ScsiSense& other) { return strength_of(other) > strength; });
  // What is left is as strong or stronger, and says this too.
  if (waiting_.empty()) waiting_.push_back(condition);
}

std::optional<ScsiSense> UnitAttentions::take() {
  if (waiting_.empty()) return std::nullopt;
  const ScsiSense next = waiting_.front();
  waiting_.erase(waiting_.begin());
  return next;
}

void UnitAttentions::forget(const ScsiSense& condition) { std::erase(waiting_, condition); }

std::vector<ScsiSlotState::Attention> UnitAttentions::saved() const {
  std::vector<ScsiSlotState::Attention> saved;
  for (const ScsiSense& condition : waiting_) saved.push_back({condition.asc, condition.ascq});
  return saved;
}

Result<void> UnitAttentions::check(const std::vector<ScsiSlotState::Attention>& saved) {
  for (auto at = saved.begin(); at != saved.end(); ++at) {
    const auto same = [at](const auto& other) {
      return other.asc == at->asc && other.ascq == at->ascq;
    };
    if (std::find_if(saved.begin(), at, same) == at) continue;
    return fail(ErrorKind::kCorrupt, "field 'attentions': {:#04x}/{:#04x} twice", at->asc,
                at->ascq);
  }
  return ok();
}

void UnitAttentions::load(const std::vector<ScsiSlotState::Attention>& saved) {
  waiting_.clear();
  for (const auto& [asc, ascq] : saved) {
    waiting_.push_back({ScsiSenseKey::kUnitAttention, asc, ascq});
  }
}

}  // namespace rhea::devices
