#include "vmm/qtest_msi.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "memory/ram_block.h"
#include "memory/region.h"
#include "tests/support/size.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::vmm;
using devices::MsiMessage;
using memory::GuestAddr;

namespace {

constexpr uint64_t kRegister = 0x10'0000;

std::shared_ptr<memory::RamBlock> make_ram() {
  memory::RamBlockConfig config;
  config.name = "ram";
  config.size_bytes = 1 << 20;
  return MUST(memory::RamBlock::create(config));
}

std::unique_ptr<AioContext> make_context() { return MUST(AioContext::create("service")); }

/// A register that counts the stores to it, and may do something at each.
struct Register final : memory::IoHandler {
  uint64_t io_read(uint64_t, unsigned) override { return 0; }
  void io_write(uint64_t, uint64_t value, unsigned size) override {
    ++stores;
    last = value;
    last_size = size;
    if (then) then();
  }
  uint64_t stores = 0;
  uint64_t last = 0;
  unsigned last_size = 0;
  std::function<void()> then;
};

/// Memory with a register in it, a context and one vector.
class Machine {
 public:
  Machine() REQUIRES(bql) {
    memory_root_.add(ram_, 0);
    memory_root_.add(region_, kRegister);
    memory.emplace("memory", memory_root_);
    router.attach(*memory);
    vector = MUST(router.add_vector());
  }
  ~Machine() {
    bql.assert_held();
    vector.reset();
    memory_root_.remove(region_);
    memory_root_.remove(ram_);
    memory.reset();
  }
  void turn() {
    while (context->poll(PollMode::kNonBlocking)) {
    }
  }
  uint64_t at(uint64_t address) { return memory->load(GuestAddr{address}, 4); }

 private:
  RcuThread self_;
  memory::MemoryRegion memory_root_{"memory", UINT64_MAX};
  memory::MemoryRegion ram_{"ram", make_ram()};

 public:
  Register reg;

 private:
  memory::MemoryRegion region_{"register", 4, reg};

 public:
  std::unique_ptr<AioContext> context = make_context();
  std::optional<memory::AddressSpace> memory;
  QtestMsi router{*context};
  std::unique_ptr<devices::MsiVector> vector;
};

}  // namespace

TEST_CASE("QtestMsi: a signal is a store of four bytes where the message points", "[qtest][msi]") {
  const BqlGuard guard;
  Machine machine;
  MUST(machine.vector->connect({.address = 0x1000, .data = 0x1234'5678}));
  machine.turn();
  CHECK(machine.at(0x1000) == 0);
  machine.vector->signal();
  machine.turn();
  CHECK(machine.at(0x1000) == 0x1234'5678);
  CHECK(machine.at(0x1004) == 0);
  MUST(machine.vector->connect({.address = kRegister, .data = 0x77}));
  machine.vector->signal();
  machine.turn();
  CHECK(machine.reg.stores == 1);
  CHECK(machine.reg.last == 0x77);
  CHECK(machine.reg.last_size == 4);
}

TEST_CASE("QtestMsi: signals that come while disconnected are pending, then one store",
          "[qtest][msi]") {
  const BqlGuard guard;
  Machine machine;
  CHECK_FALSE(machine.vector->pending());
  machine.vector->signal();
  machine.vector->signal();
  machine.turn();
  CHECK(machine.vector->pending());
  CHECK(machine.vector->pending());
  MUST(machine.vector->connect({.address = kRegister, .data = 1}));
  machine.turn();
  CHECK(machine.reg.stores == 1);
  machine.vector->disconnect();
  CHECK_FALSE(machine.vector->pending());
}

TEST_CASE("QtestMsi: what was cleared while disconnected is not stored", "[qtest][msi]") {
  const BqlGuard guard;
  Machine machine;
  machine.vector->signal();
  machine.vector->clear();
  CHECK_FALSE(machine.vector->pending());
  MUST(machine.vector->connect({.address = kRegister, .data = 1}));
  machine.turn();
  CHECK(machine.reg.stores == 0);
}

TEST_CASE("QtestMsi: a signal that meets a disconnect before it was stored stays", "[qtest][msi]") {
  const BqlGuard guard;
  Machine machine;
  MUST(machine.vector->connect({.address = kRegister, .data = 1}));
  machine.vector->signal();
  machine.vector->disconnect();
  machine.turn();
  CHECK(machine.reg.stores == 0);
  CHECK(machine.vector->pending());
  MUST(machine.vector->connect({.address = kRegister, .data = 2}));
  machine.turn();
  CHECK(machine.reg.stores == 1);
  CHECK(machine.reg.last == 2);
}

TEST_CASE("QtestMsi: a store may disconnect and end the vector that it is of", "[qtest][msi]") {
  const BqlGuard guard;
  Machine machine;
  machine.reg.then = [&machine] {
    bql.assert_held();
    machine.vector->signal();
    machine.vector->disconnect();
    machine.vector.reset();
  };
  MUST(machine.vector->connect({.address = kRegister, .data = 1}));
  machine.vector->signal();
  machine.turn();
  CHECK(machine.reg.stores == 1);
  CHECK(machine.vector == nullptr);
}

TEST_CASE("QtestMsi: a vector that ends while signalled leaves nothing behind", "[qtest][msi]") {
  const BqlGuard guard;
  Machine machine;
  MUST(machine.vector->connect({.address = kRegister, .data = 1}));
  machine.vector->signal();
  machine.vector.reset();
  machine.turn();
  CHECK(machine.reg.stores == 0);
}

TEST_CASE("G29: none of a storm of signals is lost or doubled while qtest masks", "[qtest][msi]") {
  const BqlGuard guard;
  Machine machine;
  const uint64_t rounds = test::sized<uint64_t>(2'000, 200'000);
  std::atomic<uint64_t> answered = 0;
  machine.reg.then = [&] { answered = machine.reg.stores; };
  // The next signal waits for the store of the one before, so every one must be a store.
  std::thread signaller([&machine, &answered, rounds] {
    for (uint64_t i = 0; i < rounds; ++i) {
      machine.vector->signal();
      while (answered <= i) std::this_thread::yield();
    }
  });
  for (uint32_t i = 0; answered < rounds; ++i) {
    MUST(machine.vector->connect({.address = kRegister, .data = i}));
    if (i % 2 == 0) machine.context->poll(PollMode::kNonBlocking);
    machine.vector->disconnect();
  }
  signaller.join();
  MUST(machine.vector->connect({.address = kRegister, .data = 0}));
  machine.turn();
  CHECK(machine.reg.stores == rounds);
}
