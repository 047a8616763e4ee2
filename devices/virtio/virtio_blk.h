// VirtioBlk: a disk. [virtio-1.2 5.2]
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/backend.h"
#include "devices/io_error_policy.h"
#include "devices/virtio/saved_virtio.h"

namespace rhea::devices {

/// What the user says about the disk.
struct VirtioBlkConfig {
  std::string node;                 ///< the block node's name
  std::string serial;               ///< at most 20 bytes
  std::vector<AioContext*> queues;  ///< the context of each
  uint16_t queue_size = 256;
  uint32_t logical_block_size = 512;  ///< powers of two, 512 to 32768
  uint32_t physical_block_size = 512;
  uint32_t min_io_size = 0, opt_io_size = 0;
  bool write_cache = true;
  bool config_wce = true;  ///< the guest may switch the write cache
  bool discard = true;     ///< offered
  bool write_zeroes = true;
  bool share_rw = false;
  bool indirect_desc = true, event_idx = true;
  OnIoError on_read_error = OnIoError::kReport;
  OnIoError on_write_error = OnIoError::kNoSpace;
};

struct VirtioBlkState {
  static constexpr std::string_view kKind = "virtio-blk-pci";
  static constexpr uint32_t kVersion = 1;
  bool write_cache = true;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("write_cache", s.write_cache);
  }
};

/// The device. Each queue's requests run as coroutines on the queue's context, one a request, from
/// the ring to the used ring without a lock or an allocation.
///
/// Thread: see VirtioDevice. Owns: its block backend.
/// Errors: on realize those of the block graph (no such node, permissions).
class VirtioBlk final : public SavedVirtio<VirtioBlkState>, private block::BackendUser {
 public:
  static constexpr uint64_t kSector = 512;
  static constexpr uint32_t kMaxSectors = 0x7fff'ffff / kSector;  ///< of a discard or zeroing
  static constexpr uint32_t kMaxSegments = 32;

  /// `errors` outlives it.
  VirtioBlk(std::string id, Host host, block::Graph& graph, VirtioBlkConfig config,
            IoErrorSink& errors);
  ~VirtioBlk() override;

  block::BlockBackend& backend() noexcept { return backend_; }
  const VirtioBlkConfig& config() const noexcept { return config_; }

  uint16_t virtio_id() const noexcept override { return 2; }
  uint32_t pci_class() const noexcept override { return 0x010000; }
  size_t config_size() const noexcept override;
  void read_config(std::span<std::byte> config) override REQUIRES(bql);
  void write_config(size_t offset, std::span<const std::byte> data) override REQUIRES(bql);
  std::string settings() const override REQUIRES(bql);

  Result<void> realize() override REQUIRES(bql);
  void unrealize() override REQUIRES(bql);
  bool idle() const override REQUIRES(bql);
  Result<void> leave() override REQUIRES(bql);
  /// Requests that an error has stopped are made again.
  void machine_runs() override REQUIRES(bql);

 private:
  struct Request;
  enum class Status : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

  uint64_t device_features() const override REQUIRES(bql);
  void activated(uint64_t features) override REQUIRES(bql);
  void was_reset() override REQUIRES(bql);
  Served serve(VirtioQueue& queue) override;
  void stopping(VirtioQueue& queue) override;

  VirtioBlkState own_state() override REQUIRES(bql) { return {backend_.write_cache()}; }
  Result<void> check_own(const VirtioBlkState&) const override REQUIRES(bql) { return ok(); }
  void set_own(const VirtioBlkState& own) override REQUIRES(bql) {
    backend_.set_write_cache(own.write_cache);
  }

  void drained_begin() noexcept override;
  void drained_end() noexcept override;
  bool drained_poll() const noexcept override;
  void resized(Gs& gs) noexcept override;

  void handle(Co& co, VirtioQueue& queue);
  Status perform(Co& co, Request& request);
  Status read(Co& co, Request& request);
  Status write(Co& co, Request& request);
  Status flush(Co& co, Request& request);
  Status change_ranges(Co& co, Request& request);
  Status get_id(Request& request);
  /// Does `operation` until it succeeds or its failure is dealt with.
  template <class F>
  Status attempt(Co& co, Request& request, IoError::Operation kind, F&& operation);
  bool range_ok(Co& co, uint64_t sector, uint64_t bytes, block::RequestKind kind);
  void let_go_of_disk() REQUIRES(bql);

  block::Graph& graph_;
  const VirtioBlkConfig config_;
  IoErrorPolicy io_errors_;
  block::BlockBackend backend_;
};

}  // namespace rhea::devices
