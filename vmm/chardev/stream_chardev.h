// StreamChardev: a character device over descriptors: socket, terminal, pipe, file.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "util/aio_context.h"
#include "util/fd.h"
#include "vmm/chardev/chardev.h"

namespace rhea::vmm {

/// Moves bytes between a frontend and descriptors that may stall, without ever waiting for them.
///
/// Output that the descriptor does not take is kept up to kOutputBytes; beyond, write() takes less,
/// and the frontend hears of room once half of it is free again. Input is read only as the frontend
/// has room for it, from a unix socket together with the descriptors that are passed. A descriptor
/// is watched only while something is wanted of it, for one that hung up is always ready.
///
/// Thread: as Chardev. write() and accept_input() may run on a vCPU, so they leave changes of the
/// watches, which belong to main, to a bottom half.
class StreamChardev : public Chardev {
 public:
  static constexpr size_t kOutputBytes = 64 << 10;

  ~StreamChardev() override;

  size_t write(std::span<const std::byte> data) override;
  void accept_input() override;

 protected:
  StreamChardev(std::string label, AioContext& context);

  /// Takes up a stream; either side may be missing. Both are non-blocking or never block. The
  /// frontend is told.
  void open_stream(Fd input, Fd output);
  /// Lets go of both sides, and of output that is not taken at once, and tells the frontend.
  void close_stream();
  /// Lets go of one side.
  void close_input();
  void close_output();
  /// As close_stream(), but once the output that waits has been taken.
  void close_when_written();
  /// The descriptor the peer is read from; -1 if none.
  int input_fd() const noexcept { return input_.get(); }
  /// The peer will send no more, or can not be written to. On main, in the service context.
  virtual void input_ended() { close_stream(); }
  virtual void output_ended() { close_stream(); }

  AioContext& context() const noexcept { return context_; }
  void frontend_changed() override;

 private:
  void update_watches();
  void watch_input();
  void watch_output();
  void read_some();
  void flush();
  size_t write_now(std::span<const std::byte> data);
  void release_frontend();

  AioContext& context_;
  Fd input_, output_;
  bool input_passes_fds_ = false;
  bool output_is_socket_ = false;
  bool output_broken_ = false;
  bool closing_ = false;         // when the output that waits has been taken
  bool frontend_waits_ = false;  // write() took less than it was given
  std::vector<std::byte> pending_;
  FdWatch input_watch_, output_watch_;
  Bh update_;
  Bh read_always_ready_;  // reads what epoll does not take: a regular file, /dev/null
};

}  // namespace rhea::vmm
