// Fd: a file descriptor with one owner.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

#include "util/error.h"

namespace rhea {

/// Owns a file descriptor; closes it once. Invariants: -1 means none.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept;

 private:
  int fd_ = -1;
};

/// eventfd(2) with EFD_CLOEXEC | EFD_NONBLOCK and count 0.
Result<Fd> make_eventfd();
/// Adds 1 to an eventfd's counter: wakes its readers. Any thread; never blocks or fails.
void signal_eventfd(int fd) noexcept;
/// Reads and so clears an eventfd; true if it had been signalled.
bool clear_eventfd(int fd) noexcept;

struct Pipe {
  Fd read;
  Fd write;
};
/// pipe2(2) with O_CLOEXEC.
Result<Pipe> make_pipe();

/// Sets or clears O_NONBLOCK.
Result<void> set_nonblocking(int fd, bool on);

/// Writes all of `data`, waiting as the descriptor demands; retries EINTR and short writes.
Result<void> write_all(int fd, std::span<const std::byte> data);
Result<void> write_all(int fd, std::string_view text);

}  // namespace rhea
