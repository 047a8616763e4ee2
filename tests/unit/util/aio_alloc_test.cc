// The steady state of a loop allocates nothing. Counts every operator new of this program, so it is
// left out where a sanitizer replaces it.
#include "tests/support/sanitizer.h"

#if !defined(RHEA_TEST_ASAN) && !defined(RHEA_TEST_TSAN)

#include <fcntl.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>

#include "tests/support/without_io_ring.h"
#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/io_ring.h"
#include "util/main_loop.h"
#include "util/registered_memory.h"
#include "util/timer.h"

using namespace rhea;

namespace {

std::atomic<uint64_t> allocations = 0;

void* counted(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

/// A loop's whole diet: a bottom half, a resumable, a periodic timer and a descriptor.
struct Load final : Resumable {
  explicit Load(AioContext& c) : context(c) {
    watch = MUST(context.watch(fd.get(), FdEvents::kRead, [this](FdEvents) {
      clear_eventfd(fd.get());
      ++runs;
    }));
  }
  void resume() override { ++runs; }
  void offer() {
    bh.schedule();
    context.resume_later(*this);
    timer.arm_at(Nanoseconds(0));
    signal_eventfd(fd.get());
  }

  AioContext& context;
  uint64_t runs = 0;
  const Fd fd = make_eventfd().value();
  FdWatch watch;
  Bh bh{context, [this] { ++runs; }};
  Timer timer{context.timers(), [this] { ++runs; }};
};

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

TEST_CASE("AioContext: once running, a turn allocates nothing", "[aio]") {
  auto context = MUST(AioContext::create("test"));
  Load load(*context);
  const auto turn = [&] {
    load.offer();
    context->poll(PollMode::kBlocking);
  };
  turn();
  const uint64_t before = allocations;
  for (int i = 0; i < 100; ++i) turn();
  const uint64_t after = allocations;
  CHECK(after - before == 0);
  CHECK(load.runs == 4 * 101);
}

TEST_CASE("IoRing: once running, requests allocate nothing", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  auto context = MUST(AioContext::create("test"));
  IoRing& ring = *context->io_ring();
  constexpr int kAtOnce = 200;  // more than the submission queue holds
  int done = 0;
  const auto turn = [&] {
    for (int i = 0; i < kAtOnce; ++i) {
      MUST(start_here(*context, [&](Co& co) {
        ring.co_nop(co);
        ++done;
      }));
    }
    while (ring.in_flight() > 0) context->poll(PollMode::kBlocking);
  };
  turn();
  const uint64_t before = allocations;
  for (int i = 0; i < 100; ++i) turn();
  const uint64_t after = allocations;
  CHECK(after - before == 0);
  CHECK(done == 101 * kAtOnce);
}

TEST_CASE("IoRing: once pinned, transfers of registered memory allocate nothing", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  auto context = MUST(AioContext::create("test"));
  IoRing& ring = *context->io_ring();
  const auto memory = std::make_shared<std::array<std::byte, 16384>>();
  const RegisteredMemory registered(*memory, memory);
  context->poll(PollMode::kNonBlocking);
  const Fd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  uint64_t bytes = 0;
  const auto turn = [&] {
    MUST(start_here(*context, [&](Co& co) {
      const iovec part{memory->data() + 4096, 4096};
      bytes += static_cast<uint64_t>(ring.co_readv(co, {.number = zero.get()}, {&part, 1}, 0));
    }));
    while (ring.in_flight() > 0) context->poll(PollMode::kBlocking);
  };
  turn();
  const uint64_t before = allocations;
  for (int i = 0; i < 100; ++i) turn();
  const uint64_t after = allocations;
  CHECK(after - before == 0);
  while (context->poll(PollMode::kNonBlocking)) {
  }
  CHECK(bytes == 101 * 4096);
  CHECK(ring.counters().registered == 101);
}

TEST_CASE("MainLoop: once running, a turn allocates nothing", "[main_loop]") {
  auto loop = MUST(MainLoop::create());
  BqlGuard guard;
  Load service(loop->service());
  Load block(loop->block());
  const auto turn = [&] {
    service.offer();
    block.offer();
    bql.assert_held();
    loop->turn();
  };
  turn();
  const uint64_t before = allocations;
  for (int i = 0; i < 100; ++i) turn();
  const uint64_t after = allocations;
  CHECK(after - before == 0);
  CHECK(service.runs + block.runs == 8 * 101);
}

TEST_CASE("AioContext: the counter of this test counts", "[aio]") {
  auto context = MUST(AioContext::create("test"));
  const uint64_t before = allocations;
  context->post([] {});
  const uint64_t after = allocations;
  CHECK(after > before);
  context->poll(PollMode::kNonBlocking);
}

#endif
