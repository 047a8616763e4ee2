// What a guest's read costs besides time: nothing is allocated for it, and nobody takes the BQL.
// Counts every operator new of this program, so it is left out where a sanitizer replaces it.
#include "tests/support/sanitizer.h"

#if !defined(RHEA_TEST_ASAN) && !defined(RHEA_TEST_TSAN)

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <new>

#include "tests/unit/devices/virtio_disk.h"

using namespace rhea;
using test::GuestBuffer;
using test::GuestQueue;
using test::VirtioDisk;

namespace {

thread_local bool counts = false;
std::atomic<uint64_t> allocations = 0;

void* counted(std::size_t size) {
  if (counts) allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

constexpr std::array kChain{GuestBuffer{0x1000, 16, false}, GuestBuffer{0x8000, 512, true},
                            GuestBuffer{0x2000, 1, true}};

/// Reads `count` times, with as many requests under way as the queue holds.
void read_often(VirtioDisk& disk, GuestQueue& queue, int count) {
  int left = count, done = 0;
  disk.wait_until([&] {
    while (queue.take()) ++done;
    bool offered = false;
    while (left > 0 && queue.free_descriptors() >= kChain.size()) {
      queue.offer(kChain);
      --left;
      offered = true;
    }
    if (offered) queue.ring();
    return done == count;
  });
}

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

TEST_CASE("VirtioBlk: 10^5 reads allocate nothing on the iothread, and nobody takes the BQL",
          "[virtio-blk]") {
  VirtioDisk disk;
  GuestQueue queue = disk.start(~uint64_t{0}, 256);
  const uint32_t header[4] = {};
  std::memcpy(disk.machine().ram() + 0x1000, header, sizeof header);
  read_often(disk, queue, 2000);  // coroutine stacks, and whatever else is made once
  const auto on_the_iothread = [&](bool on) {
    REQUIRE(disk.graph()
                .run_sync(disk.gs(), disk.blk->queue(0).context(),
                          [on](Co&) -> Result<void> {
                            counts = on;
                            return ok();
                          })
                .has_value());
  };
  on_the_iothread(true);
  allocations = 0;
  const uint64_t taken = bql.acquisitions();
  read_often(disk, queue, 100'000);
  CHECK(allocations == 0);
  CHECK(bql.acquisitions() == taken);
  on_the_iothread(false);
}

#endif
