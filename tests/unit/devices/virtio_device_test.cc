// What a virtio device does with requests that take their time: latched resets (G26), pauses, and
// the end, on queues of two iothreads.
#include "devices/virtio/virtio_device.h"

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <utility>
#include <vector>

#include "tests/support/size.h"
#include "tests/support/stateless_virtio.h"
#include "tests/support/virtio_guest.h"
#include "util/io_thread.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::devices;
using test::GuestBuffer;
using test::GuestQueue;
using test::VirtioDriver;
using test::VirtioMachine;
using Reg = VirtioCommonReg;

namespace {

constexpr uint8_t kLive = 15, kNeedsReset = 64;
constexpr uint16_t kSize = 64;

/// Takes every request and keeps it until it is told to let go.
class Holder final : public test::StatelessVirtio {
 public:
  Holder(Host host, const std::vector<AioContext*>& contexts)
      : StatelessVirtio("holder", host), held_(contexts.size()) {
    for (AioContext* context : contexts) add_queue(*context, kSize);
  }

  uint16_t virtio_id() const noexcept override { return 42; }
  uint32_t pci_class() const noexcept override { return 0xff0000; }
  size_t config_size() const noexcept override { return 4; }
  void read_config(std::span<std::byte> config) override REQUIRES(bql) {
    std::ranges::fill(config, std::byte{0x42});
  }
  void write_config(size_t, std::span<const std::byte>) override REQUIRES(bql) {}

  /// Has the queue's context complete what it holds, filling the memory with ones.
  void release(unsigned index) {
    queue(index).context().post([this, index] {
      for (auto& element : std::exchange(held_[index], {})) {
        const std::byte one{1};
        element->copy_in(0, std::span(&one, 1));
        queue(index).complete(*element, 1);
      }
    });
  }

  /// What it was starved of is there.
  void look_again(unsigned index) REQUIRES(bql) { serve_soon(queue(index)); }

  std::atomic<unsigned> taken = 0;
  std::atomic<bool> starves = false;  // takes nothing
  std::atomic<unsigned> served = 0;
  unsigned resets = 0;  // since the driver went live
  uint64_t activated_with = 0;

 private:
  uint64_t device_features() const override REQUIRES(bql) {
    return bit(VirtioFeature::kIndirectDesc) | bit(VirtioFeature::kEventIdx);
  }
  void activated(uint64_t features) override REQUIRES(bql) { activated_with = features; }
  void was_reset() override REQUIRES(bql) { ++resets; }
  Served serve(VirtioQueue& queue) override {
    ++served;
    if (starves && queue.rings()->has_available()) return Served::kStarved;
    for (;;) {
      auto element = std::make_unique<VirtqElement>();
      if (!queue.pop(*element)) return Served::kAll;
      held_[queue.index()].push_back(std::move(element));
      ++taken;
    }
  }

  std::vector<std::vector<std::unique_ptr<VirtqElement>>> held_;  // of each queue's context
};

class Machine {
 public:
  static constexpr unsigned kQueues = 2;

  // Unchecked: the destructor gives the BQL back.
  Machine() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    machine_ = std::make_unique<VirtioMachine>();
    std::vector<AioContext*> contexts;
    for (unsigned i = 0; i < kQueues; ++i) {
      threads_.push_back(MUST(IOThread::create("io")));
      contexts.push_back(&threads_.back()->context());
    }
    auto made =
        std::make_unique<Holder>(VirtioDevice::Host{*loop_, machine_->dma()}, std::move(contexts));
    holder = made.get();
    pci_ = std::make_shared<VirtioPci>("holder", std::move(made), machine_->msi(), *loop_);
    MUST(pci_->realize());
    MUST(machine_->bus().add(pci_, 3));
    driver_.emplace(*machine_, 3U);
  }
  // Unchecked: the constructor took the BQL.
  ~Machine() NO_THREAD_SAFETY_ANALYSIS {
    // Whatever a failed test left in hand would hold up the end.
    for (unsigned i = 0; i < kQueues; ++i) holder->release(i);
    machine_->bus().remove(*pci_);
    pci_->unrealize();
    pci_.reset();
    machine_.reset();
    threads_.clear();
    loop_.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }

  VirtioDriver& driver() { return *driver_; }
  VirtioMachine& machine() { return *machine_; }
  uint64_t read(Reg reg, unsigned size) { return driver_->read(reg, size); }
  void write(Reg reg, uint64_t value, unsigned size) { driver_->write(reg, value, size); }

  std::vector<GuestQueue> start(uint16_t vector = kNoVector) {
    bql.assert_held();
    driver_->negotiate(~uint64_t{0});
    write(Reg::kConfigVector, 0, 2);
    std::vector<GuestQueue> queues;
    for (uint16_t i = 0; i < kQueues; ++i) {
      queues.push_back(
          driver_->set_up_queue(i, 0x1'0000 * (i + 1U), kSize, holder->kick_fd(i), vector));
    }
    driver_->go();
    holder->resets = 0;
    return queues;
  }
  /// Turns main's loop until `done`, as often as it takes.
  template <class F>
  void turn_until(F&& done) {
    bql.assert_held();
    while (!done()) {
      loop_->service().notify();  // nobody kicks for what a test looks at
      loop_->turn();
    }
  }
  void some_turns() {
    int left = 10;
    turn_until([&] { return left-- == 0; });
  }
  /// Round each context once: what was rung for before has been taken, were it to be.
  void round_the_contexts() {
    std::atomic<unsigned> passed = 0;
    for (unsigned i = 0; i < kQueues; ++i) {
      // Twice: a doorbell may be looked at behind the posts of its turn.
      holder->queue(i).context().post(
          [this, i, &passed] { holder->queue(i).context().post([&passed] { ++passed; }); });
    }
    turn_until([&] { return passed == kQueues; });
  }
  /// Offers requests whose one writable byte is at `address`, and waits until they are held.
  void have_held(GuestQueue& queue, unsigned count, uint64_t address = 0x5'0000) {
    const unsigned before = holder->taken;
    for (unsigned i = 0; i < count; ++i) {
      queue.offer(std::vector<GuestBuffer>{{address + i, 1, true}});
    }
    queue.ring();
    turn_until([&] { return holder->taken == before + count; });
  }
  /// What the guest's memory holds.
  std::vector<std::byte> picture() { return {machine_->ram(), machine_->ram() + 0x10'0000}; }

  Holder* holder = nullptr;

 private:
  RcuThread rcu_thread_;
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<VirtioMachine> machine_;
  std::vector<std::unique_ptr<IOThread>> threads_;
  std::shared_ptr<VirtioPci> pci_;
  std::optional<VirtioDriver> driver_;
};

}  // namespace

TEST_CASE("VirtioDevice: what was offered before DRIVER_OK is served without a doorbell",
          "[virtio]") {
  Machine machine;
  bql.assert_held();
  machine.driver().negotiate(~uint64_t{0});
  GuestQueue queue = machine.driver().set_up_queue(0, 0x1'0000, kSize, machine.holder->kick_fd(0));
  queue.offer(std::vector<GuestBuffer>{{0x5'0000, 1, true}});
  machine.driver().go();
  machine.turn_until([&] { return machine.holder->taken == 1; });
  CHECK((machine.holder->activated_with & bit(VirtioFeature::kVersion1)) != 0);
  machine.holder->release(0);
  machine.turn_until([&] { return queue.take().has_value(); });
}

TEST_CASE("G26: a reset is latched until the last request has ended", "[virtio][reset]") {
  Machine machine;
  auto queues = machine.start(1);
  machine.have_held(queues[0], 60);
  machine.have_held(queues[1], 1, 0x6'0000);
  machine.write(Reg::kStatus, 0, 1);  // returns at once: a vCPU never waits
  machine.round_the_contexts();       // they have heard of it
  machine.some_turns();
  REQUIRE(machine.driver().status() == kLive);
  // Until it is done the driver has nothing to say.
  machine.write(Reg::kStatus, 1, 1);
  machine.write(Reg::kQueueSelect, 0, 2);
  machine.write(Reg::kQueueReset, 1, 2);
  CHECK(machine.read(Reg::kQueueReset, 2) == 0);
  queues[0].offer(std::vector<GuestBuffer>{{0x7'0000, 1, true}});
  queues[0].ring();
  machine.round_the_contexts();
  CHECK(machine.holder->taken == 61);
  CHECK(machine.driver().status() == kLive);
  // The first queue's end is not enough.
  machine.holder->release(0);
  machine.round_the_contexts();
  machine.some_turns();
  CHECK(machine.driver().status() == kLive);
  CHECK(machine.holder->resets == 0);
  machine.holder->release(1);
  machine.turn_until([&] { return machine.driver().status() == 0; });
  CHECK(machine.holder->resets == 1);
  CHECK(machine.read(Reg::kQueueEnable, 2) == 0);
  CHECK(machine.read(Reg::kQueueVector, 2) == kNoVector);
  // Nothing was given back, and nothing changes any more.
  const auto memory = machine.picture();
  queues[0].ring();
  machine.round_the_contexts();
  machine.some_turns();
  CHECK(machine.picture() == memory);
  CHECK_FALSE(queues[0].take().has_value());
  CHECK_FALSE(queues[1].take().has_value());
  CHECK(machine.machine().msi().vectors[1]->delivered() == 0);

  queues = machine.start(1);
  machine.have_held(queues[0], 1);
  machine.holder->release(0);
  machine.turn_until([&] { return queues[0].take().has_value(); });
}

TEST_CASE("G26: a queue's reset is latched until its last request has ended, and is its alone",
          "[virtio][reset]") {
  Machine machine;
  auto queues = machine.start();
  machine.have_held(queues[0], 3);
  machine.write(Reg::kQueueSelect, 0, 2);
  machine.write(Reg::kQueueReset, 1, 2);
  machine.some_turns();
  CHECK(machine.read(Reg::kQueueReset, 2) == 1);
  machine.write(Reg::kQueueSize, 8, 2);
  machine.write(Reg::kQueueEnable, 1, 2);
  CHECK(machine.read(Reg::kQueueSize, 2) == kSize);
  // The other one works on.
  machine.have_held(queues[1], 1, 0x6'0000);
  machine.holder->release(1);
  machine.turn_until([&] { return queues[1].take().has_value(); });
  CHECK(machine.read(Reg::kQueueReset, 2) == 1);
  machine.holder->release(0);
  machine.turn_until([&] { return machine.read(Reg::kQueueReset, 2) == 0; });
  CHECK(machine.read(Reg::kQueueEnable, 2) == 0);
  CHECK(machine.driver().status() == kLive);
  CHECK_FALSE(queues[0].take().has_value());
  CHECK(machine.holder->resets == 0);
}

TEST_CASE("G26: a device's reset that meets a queue's ends both", "[virtio][reset]") {
  Machine machine;
  auto queues = machine.start();
  machine.have_held(queues[0], 3);
  machine.write(Reg::kQueueSelect, 0, 2);
  machine.write(Reg::kQueueReset, 1, 2);
  machine.write(Reg::kStatus, 0, 1);
  machine.write(Reg::kStatus, 0, 1);
  machine.some_turns();
  CHECK(machine.driver().status() == kLive);
  machine.holder->release(0);
  machine.turn_until([&] { return machine.driver().status() == 0; });
  CHECK(machine.read(Reg::kQueueReset, 2) == 0);
  CHECK(machine.holder->resets == 1);
}

TEST_CASE("G26: the machine's reset returns when the requests have ended", "[virtio][reset]") {
  Machine machine;
  bql.assert_held();
  auto queues = machine.start();
  machine.have_held(queues[0], 8);
  machine.have_held(queues[1], 8, 0x6'0000);
  machine.holder->release(0);
  machine.holder->release(1);
  machine.machine().bus().reset();
  CHECK(machine.holder->resets == 1);
  // Its BARs are gone with the reset; the configuration space answers.
  CHECK(machine.driver().config_read(0x20, 4) == 0xc);
}

TEST_CASE("G26: the machine's reset gives a stuck request up after its patience, still latched",
          "[virtio][reset]") {
  if (!test::full_size()) {
    WARN("SKIP: takes the whole patience of five seconds; full size only");
    return;
  }
  Machine machine;
  bql.assert_held();
  auto queues = machine.start();
  machine.have_held(queues[0], 1);
  machine.machine().bus().reset();
  CHECK(machine.holder->resets == 0);
  machine.holder->release(0);
  machine.turn_until([&] { return machine.holder->resets == 1; });
}

TEST_CASE("VirtioDevice: a broken queue says so once, and requests in hand come home", "[virtio]") {
  Machine machine;
  bql.assert_held();
  machine.driver().use_msix();
  auto queues = machine.start();
  machine.have_held(queues[0], 3);
  machine.have_held(queues[1], 3, 0x6'0000);
  queues[0].offer_head(0xffff);
  queues[0].ring();
  machine.turn_until([&] { return machine.driver().status() == (kLive | kNeedsReset); });
  CHECK(machine.machine().msi().vectors[0]->delivered() == 1);
  machine.holder->release(0);
  machine.holder->release(1);
  machine.turn_until([&] { return queues[1].take().has_value(); });
  queues[0].ring();
  machine.round_the_contexts();
  machine.some_turns();
  CHECK_FALSE(queues[0].take().has_value());
  CHECK(machine.machine().msi().vectors[0]->delivered() == 1);
  machine.write(Reg::kStatus, 0, 1);
  machine.turn_until([&] { return machine.driver().status() == 0; });
  machine.start();
}

TEST_CASE("G17: a pause takes no more requests and keeps what was rung for", "[virtio]") {
  Machine machine;
  bql.assert_held();
  auto queues = machine.start();
  machine.have_held(queues[0], 1);
  machine.holder->pause();
  machine.holder->pause();
  machine.turn_until([&] { return !machine.holder->pausing(); });
  CHECK(machine.holder->busy());  // with the one in hand
  uint64_t address = 0x7'0000;    // each its own: two threads will write there
  for (GuestQueue& queue : queues) {
    queue.offer(std::vector<GuestBuffer>{{address++, 1, true}});
    queue.ring();
  }
  machine.round_the_contexts();
  CHECK(machine.holder->taken == 1);
  machine.holder->release(0);
  machine.turn_until([&] { return queues[0].take().has_value(); });
  machine.turn_until([&] { return !machine.holder->busy(); });
  machine.holder->resume();
  machine.round_the_contexts();
  CHECK(machine.holder->taken == 1);
  machine.holder->resume();
  machine.turn_until([&] { return machine.holder->taken == 3; });
  for (const unsigned i : {0U, 1U}) machine.holder->release(i);
  for (GuestQueue& queue : queues) {
    machine.turn_until([&] { return queue.take().has_value(); });
  }
}

TEST_CASE("VirtioDevice: a device that was never started, or is in a reset, can go", "[virtio]") {
  SECTION("never started") { Machine machine; }
  SECTION("negotiated") {
    Machine machine;
    bql.assert_held();
    machine.driver().negotiate(~uint64_t{0});
  }
  SECTION("while requests end") {
    Machine machine;
    auto queues = machine.start();
    machine.have_held(queues[0], 8);
    machine.have_held(queues[1], 8, 0x6'0000);
    machine.holder->release(0);
    machine.holder->release(1);
  }
  SECTION("while a reset is latched") {
    Machine machine;
    auto queues = machine.start();
    machine.have_held(queues[0], 8);
    machine.write(Reg::kStatus, 0, 1);
    machine.holder->release(0);
  }
}

TEST_CASE("VirtioDevice: resets race with requests on two threads", "[virtio][reset][stress]") {
  Machine machine;
  bql.assert_held();
  const int rounds = test::sized(30, 2000);
  for (int round = 0; round < rounds; ++round) {
    auto queues = machine.start();
    for (unsigned i = 0; i < Machine::kQueues; ++i) {
      for (int n = 0; n < 16; ++n) {
        queues[i].offer(std::vector<GuestBuffer>{{0x5'0000 + i, 1, true}});
      }
      queues[i].ring();
      if (round % 3 == 0) machine.holder->release(i);
    }
    machine.write(Reg::kStatus, 0, 1);
    machine.turn_until([&] {
      for (const unsigned i : {0U, 1U}) machine.holder->release(i);
      return machine.driver().status() == 0;
    });
    REQUIRE(machine.holder->resets == 1);
  }
}

TEST_CASE("VirtioDevice: a queue that starves is left alone until that is over, busy-polled or not",
          "[virtio]") {
  Machine machine;
  bql.assert_held();
  AioContext& context = machine.holder->queue(0).context();
  context.post([&context] {
    context.set_busy_poll({.longest = std::chrono::milliseconds(50), .grow = 1'000'000});
  });
  auto queues = machine.start();
  machine.holder->starves = true;
  queues[0].offer(std::vector<GuestBuffer>{{0x5'0000, 1, true}});
  queues[0].ring();
  machine.round_the_contexts();
  const unsigned before = machine.holder->served;
  CHECK(machine.holder->taken == 0);
  for (int i = 0; i < 20; ++i) machine.round_the_contexts();
  CHECK(machine.holder->served == before);
  machine.holder->starves = false;
  machine.holder->look_again(0);
  machine.turn_until([&] { return machine.holder->taken == 1; });
  machine.holder->release(0);
  machine.turn_until([&] { return queues[0].take().has_value(); });
}
