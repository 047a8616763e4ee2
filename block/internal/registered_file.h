// RegisteredFile: an open file that any context's ring may know by a slot of its own.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>

#include "block/block_context.h"
#include "util/fd.h"
#include "util/io_ring.h"

namespace rhea::block::internal {

/// The files that one context's ring has slots for. Outlives the context's record while what is
/// posted to the loop still needs it.
/// Thread: the context's home thread.
class RingSlots {
 public:
  explicit RingSlots(AioContext& aio) : aio_(aio) {}

  RingFile add(IoRing& ring, uint64_t file, int fd);
  void drop(uint64_t file);
  void drop_all();

 private:
  AioContext& aio_;
  std::map<uint64_t, RingFile> files_;
};

/// Owns a descriptor, and its slots in the rings that have used it.
///
/// A slot spares each request the look-up of the descriptor, which threads that share a table of
/// files pay for with atomic operations on one line.
/// Thread: made and destroyed on main, while no request is under way; in() on home threads.
class RegisteredFile {
 public:
  explicit RegisteredFile(Fd fd);
  ~RegisteredFile();
  RegisteredFile(const RegisteredFile&) = delete;
  RegisteredFile& operator=(const RegisteredFile&) = delete;

  int fd() const noexcept { return fd_->get(); }
  /// What `ring`, the context's, calls the file. Registers it there at first use.
  RingFile in(BlockContext& context, IoRing& ring) {
    const Place& place = places_[context.index()];
    if (place.context == context.serial()) [[likely]]
      return place.file;
    return enter(context, ring);
  }

 private:
  /// Each is its context's home thread's. A context that came after another with the same index
  /// has another serial.
  struct Place {
    uint64_t context = 0;
    RingFile file;
  };
  RingFile enter(BlockContext& context, IoRing& ring);

  std::shared_ptr<Fd> fd_;  // shared with what is posted to let go of the slots
  const uint64_t serial_;
  std::array<Place, BlockContext::kMost> places_;
};

}  // namespace rhea::block::internal
