// A machine's state, saved and loaded into another one with the same RAM: the guest never notices.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "memory/ram_block.h"
#include "tests/kvm/bare_vm.h"
#include "tests/support/size.h"
#include "vmm/kvm/kvm_ioctl.h"

using namespace rhea;
using namespace rhea::test;

namespace {

constexpr uint64_t kRamBytes = 2 << 20;
constexpr uint64_t kMmio = 0xd000'0000;
// The guests' numbers, as words from DATA on.
constexpr size_t kWish = 2, kWrong = 3, kTicks = 4;

/// Two machines over one RAM; the guest runs in one of them at a time.
class Hopper {
 public:
  explicit Hopper(const std::vector<GuestCode>& codes)
      : ram_(make_ram(kRamBytes)), first_(codes, {.ram = ram_}), second_(codes, {.ram = ram_}) {
    for (size_t i = 0; i < 16; ++i) first_.word(i) = 0;
  }

  BareVm& here() { return at_second_ ? second_ : first_; }
  BareVm& there() { return at_second_ ? first_ : second_; }
  BareVm& first() { return first_; }
  BareVm& second() { return second_; }
  std::atomic_ref<uint32_t> word(size_t index) { return first_.word(index); }
  std::byte* at(uint64_t address) { return ram_->host() + address; }
  uint64_t long_word(size_t index) {
    uint64_t value = 0;
    std::memcpy(&value, at(0x8000 + 4 * index), sizeof value);
    return value;
  }

  /// The guest goes on in the other machine.
  void hop() {
    move();
    here().resume();
  }
  /// As hop(), but it stands still there.
  void move() {
    MUST(there().load(here().save()));
    at_second_ = !at_second_;
  }
  /// Waits until the guest has made some steps more.
  void await_steps() {
    const uint32_t seen = word(kTicks);
    while (word(kTicks) - seen < 20) std::this_thread::yield();
  }
  std::string failures() { return first_.failures() + second_.failures(); }

 private:
  const std::shared_ptr<memory::RamBlock> ram_;
  BareVm first_, second_;
  bool at_second_ = false;
};

/// A port of both machines.
class BothPorts {
 public:
  BothPorts(Hopper& hopper, uint64_t address, const Port::Handlers& handlers)
      : first_(hopper.first(), address, handlers), second_(hopper.second(), address, handlers) {}

 private:
  Port first_, second_;
};

/// What the guest says on a port, in whichever machine.
class Signal {
 public:
  Signal(Hopper& hopper, uint64_t address)
      : ports_(hopper, address, {.write = [this] { said_.signal(); }}) {}
  void wait() { said_.take(); }
  void wait_for(uint64_t count) {
    for (uint64_t seen = 0; seen < count;) seen += said_.take();
  }

 private:
  EventFd said_;
  BothPorts ports_;
};

/// A word of MMIO that counts what is done to it.
class Mmio final : public memory::IoHandler {
 public:
  Mmio(BareVm& vm, uint32_t& value, uint32_t& writes, std::counting_semaphore<>& half_done)
      : vm_(vm), value_(value), writes_(writes), half_done_(half_done), region_("mmio", 8, *this) {
    const BqlGuard guard;
    vm_.memory_root().add(region_, kMmio);
  }
  ~Mmio() override {
    const BqlGuard guard;
    vm_.memory_root().remove(region_);
  }
  Mmio(const Mmio&) = delete;
  Mmio& operator=(const Mmio&) = delete;
  uint64_t io_read(uint64_t, unsigned) override { return value_; }
  void io_write(uint64_t, uint64_t value, unsigned) override {
    value_ = static_cast<uint32_t>(value);
    ++writes_;
    bql.assert_held();
    vm_.vcpu().request_stop();
    half_done_.release();
  }

 private:
  BareVm& vm_;
  uint32_t& value_;
  uint32_t& writes_;
  std::counting_semaphore<>& half_done_;
  memory::MemoryRegion region_;
};

/// kvmclock of a machine that stands still.
Nanoseconds kvm_clock(BareVm& vm) {
  const auto sections = vm.save();
  const auto clock = std::ranges::find(sections, "kvm-clock", &vmm::StateSection::name);
  RHEA_CHECK(clock != sections.end());
  const auto state = MUST(decode_state<vmm::KvmClockState>("kvm-clock", clock->bytes));
  return Nanoseconds(static_cast<int64_t>(state.nanoseconds));
}

uint32_t mp_state(BareVm& vm, size_t index) {
  kvm_mp_state state{};
  MUST(KVM_IOCTL(vm.vcpu(index).vcpu().fd(), KVM_GET_MP_STATE, &state));
  return state.mp_state;
}

}  // namespace

TEST_CASE("state: counters in registers, on the stack and in memory agree across hops", "[kvm]") {
  NEEDS_KVM();
  Hopper hopper({kCount});
  Signal done(hopper, kDonePort);
  hopper.here().reset_and_run();
  const int hops = sized(20, 500);
  for (int i = 0; i < hops; ++i) {
    hopper.await_steps();
    hopper.hop();
  }
  while (hopper.word(kTicks) < 4000) std::this_thread::yield();
  hopper.word(kWish) = 1;
  done.wait();
  hopper.here().pause();
  kvm_regs regs{};
  MUST(KVM_IOCTL(hopper.here().vcpu().vcpu().fd(), KVM_GET_REGS, &regs));
  CHECK(hopper.word(kWrong) == 0);
  CHECK(regs.rax == hopper.long_word(kTicks));
  CHECK(regs.r15 == 5 * regs.rax);
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: x87 and SSE registers go along", "[kvm]") {
  NEEDS_KVM();
  constexpr uint64_t kIn = 0x2'1000, kOut = 0x2'1400;
  constexpr size_t kRegisters = 32, kRegisterBytes = 16, kX87Count = 8, kX87Bytes = 10;
  Hopper hopper({kVectors});
  Signal done(hopper, kDonePort);
  std::array<uint8_t, 512> image{};
  image[0] = 0x7f, image[1] = 0x06;    // FCW
  image[4] = 0xff;                     // FTW: all in use
  image[24] = 0x80, image[25] = 0x3f;  // MXCSR: none of these is the default
  for (size_t i = kRegisters; i < 32 + 24 * kRegisterBytes; ++i) {
    const bool unused = i < 32 + kX87Count * 16 && (i - 32) % 16 >= kX87Bytes;
    image[i] = unused ? 0 : static_cast<uint8_t>(i * 7 + 1);
  }
  for (size_t i = 0; i < kX87Count; ++i) image[32 + i * 16 + 7] |= 0x80;  // normal numbers
  std::memcpy(hopper.at(kIn), image.data(), image.size());
  hopper.here().reset_and_run();
  done.wait();
  const int hops = sized(5, 100);
  for (int i = 0; i < hops; ++i) {
    hopper.hop();
    hopper.await_steps();
  }
  hopper.word(kWish) = 1;
  done.wait();
  const std::byte* out = hopper.at(kOut);
  CHECK(std::memcmp(out, hopper.at(kIn), 2) == 0);            // FCW
  CHECK(std::memcmp(out + 4, hopper.at(kIn) + 4, 1) == 0);    // FTW
  CHECK(std::memcmp(out + 24, hopper.at(kIn) + 24, 4) == 0);  // MXCSR
  CHECK(std::memcmp(out + 32, hopper.at(kIn) + 32, 384) == 0);
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: an interrupt that is pending in the LAPIC is taken once, after the hop",
          "[kvm]") {
  NEEDS_KVM();
  Hopper hopper({kLatched});
  Signal done(hopper, kDonePort);
  hopper.here().reset_and_run();
  done.wait();
  for (int i = 0; i < 3; ++i) hopper.hop();
  CHECK(hopper.word(kTicks) == 0);
  hopper.word(kWish) = 1;
  done.wait();
  hopper.here().pause();
  CHECK(hopper.word(kTicks) == 1);
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: a halted vCPU stays halted and is woken by an IOAPIC interrupt", "[kvm]") {
  NEEDS_KVM();
  Hopper hopper({kInterrupts});
  Signal done(hopper, kDonePort);
  Signal answered(hopper, kDoorbellPort);
  hopper.here().reset_and_run();
  done.wait();
  const auto rounds = sized<uint32_t>(10, 200);
  for (uint32_t i = 1; i <= rounds; ++i) {
    hopper.here().pause();
    while (mp_state(hopper.here(), 0) != KVM_MP_STATE_HALTED) {  // not yet there
      hopper.here().resume();
      hopper.here().pause();
    }
    hopper.hop();
    hopper.here().accel().irqs().set_irq(kInterruptGsi, true);
    hopper.here().accel().irqs().set_irq(kInterruptGsi, false);
    answered.wait();
    CHECK(hopper.word(0) == i);
  }
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: a chain of one-shot APIC timer interrupts never breaks", "[kvm]") {
  NEEDS_KVM();
  Hopper hopper({kTimer});
  Signal ticked(hopper, kDoorbellPort);
  hopper.here().reset_and_run();
  const int hops = sized(25, 500);
  for (int i = 0; i < hops; ++i) {
    ticked.wait();
    hopper.hop();
  }
  ticked.wait_for(3);
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: the PIT goes on interrupting", "[kvm]") {
  NEEDS_KVM();
  Hopper hopper({kPit});
  Signal ticked(hopper, kDoorbellPort);
  hopper.here().reset_and_run();
  const int hops = sized(10, 200);
  for (int i = 0; i < hops; ++i) {
    ticked.wait_for(2);
    hopper.hop();
  }
  ticked.wait_for(3);
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: a PIT channel that counts once goes on with what it has left", "[kvm]") {
  NEEDS_KVM();
  constexpr uint32_t kLoaded = 60'000;  // 50 ms
  constexpr Nanoseconds kPassed = std::chrono::milliseconds(10);
  constexpr uint32_t kPassedTicks = 11'931;
  BareVm vm({kSpin});
  vm.reset();
  const HostClock host;
  // The count that is saved when this much has passed since it was loaded.
  const auto saved_after = [&](Nanoseconds time, uint8_t mode) {
    kvm_pit_state2 pit{};
    pit.channels[2].mode = mode;
    pit.channels[2].rw_mode = 3;
    pit.channels[2].count = kLoaded;
    MUST(KVM_IOCTL(vm.accel().vm().fd(), KVM_SET_PIT2, &pit));
    const Nanoseconds loaded = host.now();
    while (host.now() - loaded < time) std::this_thread::yield();
    return MUST(vmm::read_pit(vm.accel().vm())).channels[2].count;
  };
  CHECK(saved_after(kPassed, 0) <= kLoaded - kPassedTicks);
  CHECK(saved_after(std::chrono::milliseconds(60), 0) == 1);
  CHECK(saved_after(kPassed, 2) == kLoaded);
}

TEST_CASE("state: a vCPU that waits for its start-up message gets it in the other machine",
          "[kvm]") {
  NEEDS_KVM();
  Hopper hopper({kStartSecondary, kNoCode});
  Signal done(hopper, kDonePort);
  hopper.here().reset_and_run();
  done.wait();
  for (int i = 0; i < 3; ++i) {
    hopper.move();
    CHECK(mp_state(hopper.here(), 1) == KVM_MP_STATE_INIT_RECEIVED);
    hopper.here().resume();
  }
  hopper.word(kWish) = 1;
  done.wait();
  hopper.hop();  // with both of them halted
  CHECK((hopper.word(kTicks) & 0xffff) == 0x5150);
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: port and MMIO accesses under way at the stop are done once", "[kvm]") {
  NEEDS_KVM();
  constexpr uint32_t kRounds = 20;
  constexpr uint64_t kRead = 0x123;
  Hopper hopper({kIo});
  std::counting_semaphore<> half_done{0};
  uint32_t reads = 0, value = 0, writes = 0;
  const auto read = [&] {
    bql.assert_held();
    ++reads;
    hopper.here().vcpu().request_stop();
    half_done.release();
    return kRead;
  };
  {
    BothPorts slow(hopper, kSlowPort, {.read = read});
    Signal done(hopper, kDonePort);
    Mmio first(hopper.first(), value, writes, half_done);
    Mmio second(hopper.second(), value, writes, half_done);
    hopper.word(0) = kRounds;
    hopper.here().reset_and_run();
    // Each read and each write stops the guest with the instruction half done.
    for (uint32_t i = 0; i < 2 * kRounds; ++i) {
      half_done.acquire();
      hopper.hop();
    }
    done.wait();
    hopper.here().pause();
  }
  CHECK(reads == kRounds);
  CHECK(writes == kRounds);
  CHECK(value == kRounds);
  CHECK(hopper.word(8) == kRounds);
  CHECK(hopper.long_word(kTicks) == kRounds * kRead);
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: the TSC and kvmclock never go back", "[kvm]") {
  NEEDS_KVM();
  Hopper hopper({kClock});
  hopper.here().reset_and_run();
  hopper.await_steps();
  const int hops = sized(20, 500);
  for (int i = 0; i < hops; ++i) {
    hopper.move();
    const uint64_t before = hopper.long_word(14);
    hopper.here().resume();
    hopper.await_steps();
    REQUIRE(hopper.long_word(14) >= before);
  }
  CHECK(hopper.long_word(10) == 0);
  CHECK(hopper.long_word(12) == 0);
  hopper.move();
  CHECK(kvm_clock(hopper.here()).count() >= static_cast<int64_t>(hopper.long_word(14)));
  CHECK(hopper.failures().empty());
}

TEST_CASE("state: kvmclock leaves out the time for which the machine stood still", "[kvm]") {
  NEEDS_KVM();
  using std::chrono::milliseconds;
  constexpr Nanoseconds kDowntime = milliseconds(200);
  Hopper hopper({kClock});
  hopper.here().reset_and_run();
  hopper.await_steps();
  hopper.move();
  const HostClock host;
  const Nanoseconds left = kvm_clock(hopper.here());
  const Nanoseconds stopped = host.now();
  while (host.now() - stopped < kDowntime) std::this_thread::yield();
  CHECK(kvm_clock(hopper.here()) == left);
  const Nanoseconds resumed = host.now();
  hopper.here().resume();
  hopper.await_steps();
  hopper.here().pause();
  const Nanoseconds ran = host.now() - resumed;
  const Nanoseconds advanced = kvm_clock(hopper.here()) - left;
  CHECK(advanced > Nanoseconds(0));
  CHECK(advanced <= ran + milliseconds(5));  // the two clocks are slewed apart
  CHECK(hopper.failures().empty());
}
