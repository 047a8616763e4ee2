#include "block/block_context.h"

#include <bit>

#include "block/graph_lock.h"
#include "block/internal/registered_file.h"
#include "util/check.h"
#include "util/mutex.h"

namespace rhea::block {
namespace {

Guarded<uint64_t> used_indices{uint64_t{0}};
std::atomic<uint64_t> next_serial{1};

}  // namespace

Result<std::unique_ptr<BlockContext>> BlockContext::create(AioContext& aio) {
  const auto index = used_indices.with([](uint64_t& used) {
    const auto free = static_cast<unsigned>(std::countr_one(used));
    if (free < kMost) used |= uint64_t{1} << free;
    return free;
  });
  if (index == kMost) {
    return fail(ErrorKind::kResource, "there can be no more than {} event loops", kMost);
  }
  auto context = std::unique_ptr<BlockContext>(new BlockContext(aio, index));
  aio.set_extension(context.get());
  graph_lock.add_context(*context);
  return context;
}

BlockContext::BlockContext(AioContext& aio, unsigned index)
    : aio_(aio),
      index_(index),
      serial_(next_serial.fetch_add(1)),
      ring_slots_(std::make_shared<internal::RingSlots>(aio)) {}

BlockContext::~BlockContext() {
  RHEA_CHECK(first_ == nullptr, "a context goes while it has requests");
  run_at_home([slots = ring_slots_] { slots->drop_all(); });
  graph_lock.remove_context(*this);
  aio_.set_extension(nullptr);
  used_indices.with([this](uint64_t& used) { used &= ~(uint64_t{1} << index_); });
}

void BlockContext::run_at_home(std::move_only_function<void()> callback) {
  if (aio_.is_home()) return callback();
  aio_.post(std::move(callback));
}

BlockContext& BlockContext::of(Co& co) {
  AioContext* aio = co.executor().aio();
  RHEA_CHECK(aio != nullptr && aio->extension() != nullptr,
             "block I/O on a thread without a block context");
  return static_cast<BlockContext&>(*aio->extension());
}

int64_t ShardedCount::sum() const noexcept {
  int64_t sum = 0;
  for (const Cell& cell : cells_) sum += cell.count.load(std::memory_order_acquire);
  return sum;
}

}  // namespace rhea::block
