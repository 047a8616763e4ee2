// file, host_device: an image that is a file or a block device of the host.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "block/driver.h"
#include "block/image_lock.h"
#include "block/internal/file_io.h"
#include "block/internal/host_file.h"
#include "util/co_sync.h"

namespace rhea::block {

/// Options: `filename`; `aio`: io_uring or threads, by default io_uring where the host gives one
/// and threads where it does not (io_uring given by name is an error there); `locking`: on, off or
/// auto, which is on (image_lock.h); `drop-cache`: whether the host forgets what it has cached of
/// the image when it becomes ours, as another host may have written it; on by default. Of the
/// common ones it obeys cache.direct, discard, read-only and auto-read-only; filename and locking
/// stay as they are when it is reopened.
///
/// Under the name "file" it takes a regular file or a block device of the host, whichever it finds;
/// under "host_device", a block device alone. They differ in nothing else.
///
/// The length of a regular file is rounded up to whole sectors; what is read beyond its end, also
/// when it was cut behind our back, is zero, and a write there makes it longer.
///
/// Invariants: nothing is written while the node is inactive. After one flush has failed all do,
/// until the node is reopened: the host reports lost writes once and then forgets them, so a later
/// success would mean nothing. A flush covers every write that completed before it was asked for;
/// those that are asked for while one runs share the next. Errors: of the host, with its errno and
/// the place; kUnsupported to resize a block device.
class File final : public BlockDriver {
 public:
  static constexpr std::string_view kName = "file";
  static constexpr std::string_view kHostDeviceName = "host_device";

  explicit File(internal::HostFileKind kind = internal::HostFileKind::kAny);
  ~File() override;

  std::string_view name() const noexcept override {
    return kind_ == internal::HostFileKind::kAny ? kName : kHostDeviceName;
  }
  Result<void> open(Gs& gs, OpenRequest& request) override;
  void close(Gs& gs) noexcept override;
  Result<std::unique_ptr<ReopenState>> reopen(Gs& gs, OpenRequest& request) override;
  Result<void> prepare_permissions(Gs& gs, const Permissions& needs) override;
  void commit_permissions(Gs& gs, const Permissions& needs) noexcept override;
  void abort_permissions(Gs& gs) noexcept override;
  Result<void> prepare_to_activate(Gs& gs, const Permissions& needs) override;
  void inactivate(Gs& gs) noexcept override;
  Result<uint64_t> measure(Gs& gs) override;
  BlockLimits limits(Gs& gs) const override;
  std::string filename() const override { return options_.filename; }
  WriteFlags write_flags() const noexcept override { return WriteFlags::kForceUnitAccess; }
  WriteFlags zero_flags() const noexcept override {
    return WriteFlags::kMayUnmap | WriteFlags::kNoFallback;
  }

  Result<void> co_read(Co& co, uint64_t offset, IoVector memory) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_discard(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_flush(Co& co) override REQUIRES_SHARED(graph_lock);
  Result<void> co_resize(Co& co, uint64_t size) override REQUIRES_SHARED(graph_lock);
  Result<BlockStatus> co_status(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock);

 private:
  class Reopen;
  struct Options {
    std::string filename;
    internal::FileTransport transport = internal::FileTransport::kRing;
    bool locking = true;
    bool drop_cache = true;
  };
  /// What a reopen replaces as a whole.
  struct Opened {
    internal::HostFile file;  // without the descriptor, which is the other's
    std::unique_ptr<internal::FileIo> io;
  };

  static Result<Options> take_options(OpenRequest& request);
  Result<Opened> open_file(const Options& options, OpenRequest& request) const;
  Permissions locked(const Permissions& needs) const;
  void check_active() const;
  Error failed(std::string_view what, uint64_t offset, uint64_t size, int64_t result) const;
  Result<void> read_rest(Co& co, uint64_t offset, IoVector memory, int64_t last);
  Result<void> write_rest(Co& co, uint64_t offset, IoVector memory, WriteFlags flags, int64_t last);
  int64_t write_to_disk(Co& co, std::span<const iovec> pieces, uint64_t offset);
  int64_t fallocate_if(Co& co, std::atomic<bool>& works, int mode, uint64_t offset, uint64_t size);
  int64_t zero(Co& co, uint64_t offset, uint64_t size, WriteFlags flags);
  void flush_failed(int64_t result) noexcept;

  const internal::HostFileKind kind_;
  const Node* node_ = nullptr;
  Options options_;
  Opened opened_;  // changes in write sections
  std::optional<ImageLock> lock_;
  const Reopen* reopening_ = nullptr;  // main: from its making until its end
  std::atomic<bool> can_zero_range_{true};
  std::atomic<bool> can_punch_{true};
  CoMutex flushing_;
  std::atomic<uint64_t> flushes_begun_{0};
  std::atomic<int> flush_errno_{0};  // of the first flush that failed
};

}  // namespace rhea::block
