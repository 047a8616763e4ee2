// UnitAttentions: what a unit has to tell its initiator before it carries out more. [SAM-5 5.14]
#pragma once

#include <optional>
#include <vector>

#include "devices/scsi/scsi_sense.h"
#include "devices/scsi/scsi_state.h"
#include "util/error.h"

namespace rhea::devices {

/// The unit attention conditions of one unit for its one initiator, in the order of telling.
///
/// A unit begins with the power-on condition. Conditions are told one by one, first come, first
/// served; none waits twice. A reset clears what waits, for the initiator is to look at everything
/// again, and is told first. Of several resets the strongest is told, and says it all: power-on,
/// then a bus reset, a unit's, and the loss of the nexus. [SAM-5 5.14.5]
///
/// Thread: its owner's lock.
class UnitAttentions {
 public:
  void establish(const ScsiSense& condition);
  /// The next one, which is told now.
  std::optional<ScsiSense> take();
  /// Told in another way.
  void forget(const ScsiSense& condition);
  bool empty() const noexcept { return waiting_.empty(); }

  // Migration.
  std::vector<ScsiSlotState::Attention> saved() const;
  /// Errors: kCorrupt; one waits twice.
  static Result<void> check(const std::vector<ScsiSlotState::Attention>& saved);
  void load(const std::vector<ScsiSlotState::Attention>& saved);

 private:
  std::vector<ScsiSense> waiting_{sense::kPowerOn};
};

}  // namespace rhea::devices
