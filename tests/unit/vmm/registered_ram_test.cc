#include "vmm/registered_ram.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <catch2/catch.hpp>
#include <memory>
#include <optional>

#include "memory/address_space.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/io_ring.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::vmm;
using memory::MemoryRegion;
using memory::RamBlock;

namespace {

constexpr uint64_t kSize = 1 << 20;

std::shared_ptr<RamBlock> make_ram(bool prealloc) {
  memory::RamBlockConfig config;
  config.name = "ram";
  config.size_bytes = kSize;
  config.prealloc = prealloc;
  return MUST(RamBlock::create(config));
}

/// An address space that a RegisteredRam follows, and a ring. Holds the BQL.
class Followed {
 public:
  // Unchecked: the destructor gives the BQL back.
  Followed() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    space_.emplace("memory", root_);
    space_->register_listener(ram_);
  }
  // Unchecked: the constructor took the BQL.
  ~Followed() NO_THREAD_SAFETY_ANALYSIS {
    unfollow();
    space_.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }

  void show(MemoryRegion& region, uint64_t address) {
    bql.assert_held();
    root_.add(region, address);
  }
  void hide(MemoryRegion& region) {
    bql.assert_held();
    root_.remove(region);
  }
  void unfollow() {
    bql.assert_held();
    if (ram_ != nullptr) space_->unregister_listener(*ram_);
    ram_.reset();
  }

  /// Whether the ring takes a transfer to `block` for one of registered memory.
  bool knows(const RamBlock& block) {
    while (context_->poll(PollMode::kNonBlocking)) {
    }
    IoRing& ring = *context_->io_ring();
    const uint64_t before = ring.counters().registered;
    bool done = false;
    MUST(start_here(*context_, [&](Co& co) {
      const iovec part{.iov_base = block.host() + 4096, .iov_len = 4096};
      REQUIRE(ring.co_readv(co, {.number = zero_.get()}, {&part, 1}, 0) == 4096);
      done = true;
    }));
    while (!done) context_->poll(PollMode::kBlocking);
    return ring.counters().registered > before;
  }

 private:
  RcuThread self_;
  MemoryRegion root_{"root", 4 * kSize};
  std::shared_ptr<RegisteredRam> ram_ = std::make_shared<RegisteredRam>();
  std::optional<memory::AddressSpace> space_;
  std::unique_ptr<AioContext> context_ = AioContext::create("test").value();
  const Fd zero_{::open("/dev/zero", O_RDONLY | O_CLOEXEC)};
};

}  // namespace

TEST_CASE("RegisteredRam: offers preallocated RAM while the address space shows it", "[vmm]") {
  Followed f;
  const auto block = make_ram(true);
  MemoryRegion ram("ram", block);
  CHECK_FALSE(f.knows(*block));
  f.show(ram, 0);
  CHECK(f.knows(*block));
  f.hide(ram);
  CHECK_FALSE(f.knows(*block));
  f.show(ram, kSize);
  CHECK(f.knows(*block));
  f.unfollow();
  CHECK_FALSE(f.knows(*block));
  f.hide(ram);
}

TEST_CASE("RegisteredRam: leaves alone RAM that the host has yet to find", "[vmm]") {
  Followed f;
  const auto block = make_ram(false);
  MemoryRegion ram("ram", block);
  f.show(ram, 0);
  CHECK_FALSE(f.knows(*block));
  f.hide(ram);
}

TEST_CASE("RegisteredRam: RAM in several places goes with the last of them", "[vmm]") {
  Followed f;
  const auto block = make_ram(true);
  MemoryRegion ram("ram", block);
  MemoryRegion low("low", ram, 0, kSize / 2);
  MemoryRegion high("high", ram, kSize / 2, kSize / 2);
  f.show(low, 0);
  f.show(high, 2 * kSize);
  CHECK(f.knows(*block));
  f.hide(low);
  CHECK(f.knows(*block));
  f.hide(high);
  CHECK_FALSE(f.knows(*block));
}

TEST_CASE("RegisteredRam: RAM that is cut in two stays registered", "[vmm]") {
  Followed f;
  const auto block = make_ram(true);
  const auto other = make_ram(false);
  MemoryRegion ram("ram", block);
  MemoryRegion whole("whole", other);
  MemoryRegion cut("cut", whole, 0, 4096);
  f.show(ram, 0);
  CHECK(f.knows(*block));
  f.show(cut, kSize / 2);
  CHECK(f.knows(*block));
  CHECK_FALSE(f.knows(*other));
  f.hide(cut);
  CHECK(f.knows(*block));
  f.hide(ram);
}
