// ScsiCd: a CD drive behind a SCSI bus. [MMC-6]
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "devices/scsi/scsi_disk.h"
#include "devices/scsi/scsi_mmc.h"
#include "devices/scsi/scsi_tray.h"

namespace rhea::devices {

/// What the user says about the drive. Without a node it is empty.
struct ScsiCdConfig : ScsiDiskConfig {
  ScsiCdConfig() { product = "RHEA CD-ROM"; }
};

/// A drive that reads: blocks of 2048 bytes, a tray that guest and user open and shut, and a
/// medium that the user changes while it is open.
///
/// Thread: see ScsiUnit; the user's side on main, with the BQL, at the top.
/// Errors: see ScsiDisk; texts are QEMU's where it has one.
class ScsiCd final : public ScsiDisk {
 public:
  using Force = ScsiTray::Force;

  /// `errors` and `tray` outlive it, and what it has posted to main.
  ScsiCd(std::string name, const ScsiAddress& address, block::Graph& graph,
         const ScsiCdConfig& config, IoErrorSink& errors, ScsiTraySink& tray);
  ~ScsiCd() override;

  Result<void> realize() override REQUIRES(bql);
  void reset() override;
  std::string settings() const override REQUIRES(bql);
  ScsiUnitState state() const override REQUIRES(bql);
  Result<void> check_state(const ScsiUnitState& state) const override REQUIRES(bql);
  void set_state(const ScsiUnitState& state) override REQUIRES(bql);
  bool changes_are_events() const noexcept override { return false; }

  const ScsiTray& tray() const noexcept { return *tray_; }
  /// Errors: kBusy, the guest has locked it; it is asked to let go.
  Result<void> open_tray(Force force) REQUIRES(bql);
  void close_tray() REQUIRES(bql);
  /// Lays a medium on the open tray, or takes it off (null). Errors: kBusy, it is shut; kExists;
  /// those of the graph, and then nothing has changed.
  Result<void> set_medium(block::Node* node) REQUIRES(bql);

 private:
  static const ScsiCommand kCommands[];
  static const VpdPage kVpdPages[];
  static const ModePage kModePages[];

  std::span<const ScsiCommand> commands() const override;
  std::span<const VpdPage> vpd_pages() const override;
  std::span<const ModePage> mode_pages() const override;
  std::optional<ScsiSense> not_ready() const override;
  void resized(Gs& gs) noexcept override;

  ScsiOutcome start_stop(Co& co, ScsiRequest& request);
  ScsiOutcome prevent_allow(Co& co, ScsiRequest& request);
  ScsiOutcome seek(Co& co, ScsiRequest& request);
  ScsiOutcome read_toc(Co& co, ScsiRequest& request);
  ScsiOutcome get_configuration(Co& co, ScsiRequest& request);
  ScsiOutcome get_event_status(Co& co, ScsiRequest& request);
  ScsiOutcome read_disc_information(Co& co, ScsiRequest& request);
  ScsiOutcome mechanism_status(Co& co, ScsiRequest& request);

  void medium_came();

  const std::shared_ptr<ScsiTray> tray_;
  bool changing_medium_ = false;  // main
};

}  // namespace rhea::devices
