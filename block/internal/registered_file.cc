#include "block/internal/registered_file.h"

#include <atomic>

#include "block/graph_lock.h"
#include "util/log.h"

namespace rhea::block::internal {
namespace {

std::atomic<uint64_t> next_serial{1};

}  // namespace

RingFile RingSlots::add(IoRing& ring, uint64_t file, int fd) {
  auto registered = ring.register_file(fd);
  if (!registered) {
    // Works all the same, by its number.
    RHEA_LOG(kBlock, kWarn, "{}", registered.error().message());
    return RingFile{.number = fd, .kind = RingFile::Kind::kDescriptor};
  }
  files_.emplace(file, *registered);
  return *registered;
}

void RingSlots::drop(uint64_t file) {
  const auto at = files_.find(file);
  if (at == files_.end()) return;
  aio_.io_ring()->unregister_file(at->second);
  files_.erase(at);
}

void RingSlots::drop_all() {
  for (const auto& [serial, file] : files_) aio_.io_ring()->unregister_file(file);
  files_.clear();
}

RegisteredFile::RegisteredFile(Fd fd)
    : fd_(std::make_shared<Fd>(std::move(fd))), serial_(next_serial.fetch_add(1)) {}

RingFile RegisteredFile::enter(BlockContext& context, IoRing& ring) {
  Place& place = places_[context.index()];
  place.file = context.ring_slots().add(ring, serial_, fd());
  place.context = context.serial();
  return place.file;
}

RegisteredFile::~RegisteredFile() {
  for (BlockContext* context : graph_lock.contexts()) {
    if (places_[context->index()].context != context->serial()) continue;
    context->run_at_home(
        [slots = context->share_ring_slots(), serial = serial_, fd = fd_] { slots->drop(serial); });
  }
}

}  // namespace rhea::block::internal
