// ScsiHd: a disk behind a SCSI bus. [SBC-3]
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "devices/scsi/scsi_disk.h"

namespace rhea::devices {

/// What the user says about the disk. Units: bytes; block sizes are powers of two, 512 to 32768.
struct ScsiHdConfig : ScsiDiskConfig {
  ScsiHdConfig() { product = "RHEA HARDDISK"; }
  bool removable = false;
  uint32_t logical_block_size = 512;
  uint32_t physical_block_size = 512;
  uint32_t min_io_size = 0, opt_io_size = 0;
  /// 0: the guest is not told that space can be given back; a page of memory if it is not said.
  std::optional<uint32_t> discard_granularity{};
  uint16_t rotation_rate = 0;  ///< turns a minute; 1: none, 0: not told
};

/// The disk.
///
/// What a guest gives back reads as anything until it is written again (LBPRZ is clear), because
/// the host takes a discard for advice; WRITE SAME of zeroes leaves zeroes, and may give space back
/// if it is asked to.
///
/// Thread, Errors: see ScsiDisk. A removable one can not be ejected by its guest.
class ScsiHd final : public ScsiDisk {
 public:
  static constexpr uint64_t kMostUnmapBytes = uint64_t{1} << 30;  ///< of one UNMAP, in all
  static constexpr size_t kMostUnmapRanges = 255;
  static constexpr uint64_t kMostWriteSameBytes = uint64_t{1} << 30;

  ScsiHd(std::string name, const ScsiAddress& address, block::Graph& graph,
         const ScsiHdConfig& config, IoErrorSink& errors);
  ~ScsiHd() override;

  const ScsiHdConfig& config() const noexcept { return hd_; }

  void reset() override;

 private:
  static const ScsiCommand kCommands[];
  static const VpdPage kVpdPages[];
  static const ModePage kModePages[];

  std::span<const ScsiCommand> commands() const override;
  std::span<const VpdPage> vpd_pages() const override;
  std::span<const ModePage> mode_pages() const override;
  uint8_t device_specific() const override;
  bool has_block_descriptor() const override { return true; }
  bool gives_space_back() const override { return discard_granularity_ != 0; }
  std::optional<ScsiOutcome> mode_selected(Co& co, ScsiRequest& request,
                                           std::span<const uint8_t> page) override;

  static void put_block_limits(const ScsiDisk& disk, ScsiReply& reply);
  static void put_characteristics(const ScsiDisk& disk, ScsiReply& reply);
  static void put_provisioning(const ScsiDisk& disk, ScsiReply& reply);

  ScsiOutcome read_capacity_16(Co& co, ScsiRequest& request);
  ScsiOutcome start_stop(Co& co, ScsiRequest& request);
  ScsiOutcome synchronize_cache(Co& co, ScsiRequest& request);
  ScsiOutcome write(Co& co, ScsiRequest& request);
  ScsiOutcome write_and_verify(Co& co, ScsiRequest& request);
  ScsiOutcome verify(Co& co, ScsiRequest& request);
  ScsiOutcome write_same(Co& co, ScsiRequest& request);
  ScsiOutcome unmap(Co& co, ScsiRequest& request);
  ScsiOutcome get_lba_status(Co& co, ScsiRequest& request);

  ScsiOutcome do_write(Co& co, ScsiRequest& request, block::WriteFlags flags);
  std::optional<ScsiOutcome> read_back(Co& co, ScsiRequest& request, const ScsiCdb::Range& range,
                                       bool compares);
  std::optional<ScsiOutcome> write_zeroes(Co& co, ScsiRequest& request, const ScsiCdb::Range& range,
                                          block::WriteFlags flags);
  std::optional<ScsiOutcome> write_pattern(Co& co, ScsiRequest& request,
                                           const ScsiCdb::Range& range);

  const ScsiHdConfig hd_;
  const uint32_t discard_granularity_;
};

}  // namespace rhea::devices
