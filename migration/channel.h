// Channel: a byte stream between two instances, or to a file or a command.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "migration/bandwidth_limit.h"
#include "migration/cancel.h"
#include "migration/child_command.h"
#include "util/error.h"
#include "util/fd.h"

namespace rhea::migration {

/// Thread: one that writes and one that reads, which may be the same; shutdown() from any. Both sit
/// in poll() with the switch beside the descriptor, so nothing but the kernel's own copying keeps
/// them from it: a blocked peer, a full pipe and a spent bandwidth limit do not.
/// Owns: the descriptor, which it makes non-blocking (for all who share its description), and the
/// command behind it.
/// Invariants: after a read or a write has failed the stream is at no known place: only shutdown()
/// and the destructor are left.
/// Errors: name the kind of stream, the direction and errno ("Unable to write to socket: Broken
/// pipe"); kCancelled once the switch was thrown. SIGPIPE is ignored or blocked by the process.
class Channel {
 public:
  /// `fd`: a socket, a pipe or a file. `child`: the command at the other end of a pipe.
  static Result<std::unique_ptr<Channel>> create(Fd fd, std::shared_ptr<Cancel> cancel,
                                                 std::unique_ptr<ChildCommand> child = nullptr);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  /// Writes everything that `parts` point to, and uses them up: afterwards they say nothing.
  /// The memory may change meanwhile (it is a guest's): then any mix of old and new is sent.
  Result<void> write(std::span<iovec> parts);
  Result<void> write(std::span<const std::byte> data);

  /// Fills everything that `parts` point to, and uses them up. Errors: kIo at the stream's end.
  Result<void> read(std::span<iovec> parts);
  Result<void> read(std::span<std::byte> data);
  /// As read(), but false, with nothing read, if the stream ends right here.
  Result<bool> read_unless_ended(std::span<std::byte> data);

  /// Sleeps until `fd` is readable. Errors: kIo, the peer has hung up; kCancelled.
  Result<void> wait_for(int fd);

  /// The same stream, behind another switch: what this one's can no longer say can be said there.
  Result<std::unique_ptr<Channel>> reopen(std::shared_ptr<Cancel> cancel) const;

  /// Whether a few hundred bytes can be written within `patience`, without another wait for the
  /// peer.
  bool writable(std::chrono::milliseconds patience) const noexcept;
  /// Whether a read would find something, or the stream's end, at once or within `patience`.
  bool readable(std::chrono::milliseconds patience = {}) const noexcept;

  /// Throws the switch: for every channel that was made with it. The peer of a socket learns of it.
  void shutdown() noexcept;

  /// After the last write. All of it is where it belongs when this returns: a file is on its disk,
  /// a command has ended well. Nothing may be written after.
  Result<void> finish();

  /// Whether an answer can come back on it.
  bool two_way() const noexcept { return kind_ == Kind::kSocket; }

  /// What is written from now on is held to `limit`, and added to `counter` byte by byte as the
  /// host takes it. Both may be null. By the writing thread, or before it writes.
  Result<void> limit_by(std::shared_ptr<BandwidthLimit> limit);
  void count_into(std::atomic<uint64_t>* counter) noexcept { counter_ = counter; }

 private:
  enum class Kind : uint8_t { kSocket, kPipe, kFile, kCommand };

  Channel(Fd fd, Kind kind, std::shared_ptr<Cancel> cancel, std::unique_ptr<ChildCommand> child);
  static Result<Kind> kind_of(int fd, bool has_child);

  /// Until the descriptor is ready for `events`.
  Result<void> wait_ready(short events);
  /// Until the bandwidth limit lets more through.
  Result<void> wait_allowed();
  Result<size_t> write_some(std::span<const iovec> parts);
  /// 0 at the stream's end.
  Result<size_t> read_some(std::span<const iovec> parts);
  /// How many bytes of `parts` came before the stream ended, or all.
  Result<size_t> read_until_ended(std::span<iovec> parts);

  Error io_error(const char* verb, int os_errno) const;
  Error cancelled_error(const char* verb) const;
  const char* kind_name() const noexcept;

  Fd fd_;
  const Kind kind_;
  const std::shared_ptr<Cancel> cancel_;
  std::unique_ptr<ChildCommand> child_;
  std::shared_ptr<BandwidthLimit> limit_;
  Fd limit_changed_;
  std::atomic<uint64_t>* counter_ = nullptr;
};

}  // namespace rhea::migration
