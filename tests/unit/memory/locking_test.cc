// Who holds what while a handler runs, and what a vCPU finds that had to wait for the BQL.
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <semaphore>

#include "memory/address_space.h"
#include "tests/unit/memory/fixtures.h"
#include "util/sync_point.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::memory;
using rhea::test::Machine;

namespace {

// Notes on every access whether its caller holds the BQL.
class Witness : public IoHandler {
 public:
  uint64_t io_read(uint64_t, unsigned) override {
    note();
    return 0;
  }
  void io_write(uint64_t, uint64_t, unsigned) override { note(); }

  std::atomic<int> with_bql = 0, without_bql = 0, outside_section = 0;

 private:
  void note() {
    ++(bql.held() ? with_bql : without_bql);
    if (!rcu.in_read_section()) ++outside_section;
  }
};

std::binary_semaphore at_the_lock(0);

void on_sync_point(const char* name) {
  if (std::string_view(name) == "memory:before-bql") at_the_lock.release();
}

}  // namespace

TEST_CASE("AddressSpace: a BQL region's handler runs with the BQL, taken only if not held",
          "[memory]") {
  Machine m;
  Witness device;
  MemoryRegion io("io", 16, device);
  m.add(io, 0);
  m.space().load(GuestAddr{0}, 4);
  CHECK(device.with_bql == 1);
  CHECK_FALSE(bql.held());
  {
    BqlGuard guard;
    m.space().store(GuestAddr{4}, 1, 4);
    CHECK(bql.held());
  }
  CHECK(device.with_bql == 2);
  CHECK(device.without_bql == 0);
  CHECK(device.outside_section == 0);
  m.remove(io);
}

TEST_CASE("AddressSpace: a lock-free region answers while another thread holds the BQL",
          "[memory]") {
  ::alarm(60);
  Machine m;
  Witness device;
  MemoryRegion io("pm-timer", 16, device, {}, IoLocking::kLockFree);
  MemoryRegion ram("ram", test::make_ram(0x1000));
  m.add(io, 0);
  m.add(ram, 0x1000);
  {
    BqlGuard guard;
    const uint64_t before = bql.acquisitions();
    MUST(Thread::start("vcpu", [&] {
      m.space().load(GuestAddr{0}, 4);
      m.space().store(GuestAddr{0x1000}, 1, 4);
    })).join();
    CHECK(bql.acquisitions() == before);
  }
  CHECK(device.without_bql == 1);
  CHECK(device.with_bql == 0);
  m.remove(io);
  m.remove(ram);
  ::alarm(0);
}

// A vCPU found the device, then queued for the BQL while main unplugged it. Held at the lock by a
// sync point, so every run is that interleaving.
TEST_CASE("AddressSpace: a handler is not entered after its region was removed", "[memory]") {
  ::alarm(60);
  Machine m;
  Witness removed, revealed;
  MemoryRegion front("front", 16, removed), behind("behind", 16, revealed);
  m.add(front, 0, 1);
  m.add(behind, 0, 0);
  Thread vcpu;
  {
    BqlGuard guard;
    sync_point_handler.store(on_sync_point, std::memory_order_release);
    vcpu = MUST(Thread::start("vcpu", [&] { m.space().store(GuestAddr{0}, 1, 4); }));
    at_the_lock.acquire();
    m.root().remove(front);
  }
  vcpu.join();
  sync_point_handler.store(nullptr, std::memory_order_release);
  while (at_the_lock.try_acquire()) {
  }
  CHECK(removed.with_bql == 0);
  CHECK(revealed.with_bql == 1);
  m.remove(behind);
  ::alarm(0);
}
