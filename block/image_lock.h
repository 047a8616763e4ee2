// ImageLock: keeps two programs from using one image in ways that do not fit together.
//
// Advisory locks on single bytes of the image tell every other program (another Rhea, QEMU,
// qemu-img) what this one does with it. The layout is QEMU's:
//
//   byte 100 + p   somebody does p with the image
//   byte 200 + p   somebody can not bear others doing p
//
// with p = 0 consistent read, 1 write, 2 write unchanged, 3 resize. All locks are shared ones of an
// open file description (OFD), so two nodes of one process see each other, too. Who wants p takes
// byte 100 + p and then asks whether another holds 200 + p; who refuses p the other way round. As
// each announces before it asks, of two that cross at least one sees the other.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "block/permissions.h"
#include "util/error.h"

namespace rhea::block {

/// The locks of one open image.
///
/// Thread: main. Owns: the locks, not the descriptor, which outlives it; they are gone after
/// release(), although the kernel may keep the open file for a while.
/// Invariants: prepare() is followed by commit() or abort().
/// Errors: `Failed to get "write" lock: Is another process using the image [x]?` and who it is, as
/// far as /proc shows it (kBusy); a file system without locks.
class ImageLock {
 public:
  ImageLock(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  /// Takes what `needs` has and the lock has not, and asks all others.
  Result<void> prepare(const Permissions& needs);
  /// Lets go of what is not in `needs`, which was prepared.
  void commit(const Permissions& needs) noexcept;
  void abort() noexcept;

  /// Announces on another open description of the same image what is announced on this one, after
  /// prepare(), which would find the other in the way. Nobody is asked again.
  Result<void> copy_to(int fd) const;
  /// That description takes over, after commit(), and the locks on the old one end.
  void move_to(int fd) noexcept;
  void release() noexcept;

 private:
  struct Bytes {
    uint8_t taken = 0;     ///< bits of Perm, at 100
    uint8_t unshared = 0;  ///< at 200
    friend bool operator==(const Bytes&, const Bytes&) = default;
  };
  static Bytes bytes_of(const Permissions& permissions) noexcept;
  Result<void> take(const Bytes& wanted);
  Result<void> ask(const Bytes& wanted) const;
  void keep_only(const Bytes& wanted) noexcept;
  Error refused(int byte, std::string_view what) const;

  int fd_;
  const std::string path_;
  Bytes held_;    // on the file
  Bytes agreed_;  // as of the last commit
};

}  // namespace rhea::block
