// vCPU threads: work that is sent to them, what the BQL holds up and what not, and a reset.
#include <pthread.h>

#include <atomic>
#include <cstring>
#include <semaphore>
#include <thread>
#include <vector>

#include "tests/kvm/bare_vm.h"
#include "tests/kvm/raw_vcpu.h"
#include "tests/support/size.h"
#include "util/sync_point.h"
#include "util/thread.h"
#include "vmm/kvm/kvm_ioctl.h"
#include "vmm/kvm/kvm_msrs.h"

using namespace rhea;
using namespace rhea::test;

namespace {

/// What a piece of work found; written on the vCPU's thread, read when run_on() has returned.
struct Visit {
  int thread_id = 0;
  bool had_bql = false;
};

Visit visit(vmm::VcpuThread& vcpu) REQUIRES(bql) {
  Visit found;
  vcpu.run_on([&found] { found = {.thread_id = current_thread_id(), .had_bql = bql.held()}; });
  return found;
}

/// Holds every vCPU thread just before it enters the guest, while `closed`.
class Gate {
 public:
  Gate() {
    closed_ = true;
    sync_point_handler.store(pass, std::memory_order_release);
  }
  ~Gate() { sync_point_handler.store(nullptr, std::memory_order_release); }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  static void wait_for_arrivals(ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; ++i) arrivals_.acquire();
  }
  static void open(ptrdiff_t count) {
    closed_ = false;
    departures_.release(count);
  }

 private:
  static void pass(const char* name) {
    if (std::strcmp(name, "vcpu.run.before_enter") != 0 || !closed_) return;
    arrivals_.release();
    departures_.acquire();
  }
  // Static: a thread may be on its way through when the gate is gone.
  inline static std::atomic<bool> closed_{false};
  inline static std::counting_semaphore<> arrivals_{0};
  inline static std::counting_semaphore<> departures_{0};
};

/// All that a guest can change of its processors and interrupt controllers.
struct Snapshot {
  std::vector<kvm_regs> regs;
  std::vector<kvm_sregs> sregs;
  std::vector<kvm_lapic_state> lapics;
  std::vector<kvm_mp_state> mp_states;
  std::array<kvm_irqchip, 3> chips{};
};

Snapshot take_snapshot(BareVm& vm, size_t cpus) {
  Snapshot snapshot;
  for (size_t i = 0; i < cpus; ++i) {
    const int fd = vm.vcpu(i).vcpu().fd();
    snapshot.regs.push_back(kvm_get<kvm_regs>(fd, KVM_GET_REGS));
    snapshot.sregs.push_back(kvm_get<kvm_sregs>(fd, KVM_GET_SREGS));
    snapshot.lapics.push_back(kvm_get<kvm_lapic_state>(fd, KVM_GET_LAPIC));
    snapshot.mp_states.push_back(kvm_get<kvm_mp_state>(fd, KVM_GET_MP_STATE));
  }
  for (uint32_t i = 0; i < snapshot.chips.size(); ++i) {
    snapshot.chips[i].chip_id = i;
    MUST(KVM_IOCTL(vm.accel().vm().fd(), KVM_GET_IRQCHIP, &snapshot.chips[i]));
  }
  return snapshot;
}

template <class T>
bool same_bytes(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace

TEST_CASE("run_on: work runs on the vCPU's thread with the BQL, running or not", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin, kSpin});
  vm.reset();
  const auto check_both = [&] {
    const BqlGuard guard;
    for (size_t i = 0; i < 2; ++i) {
      const Visit found = visit(vm.vcpu(i));
      CHECK(found.thread_id == vm.vcpu(i).thread_id());
      CHECK(found.thread_id != current_thread_id());
      CHECK(found.had_bql);
    }
  };
  check_both();
  vm.resume();
  const int rounds = sized(50, 1'000);
  for (int i = 0; i < rounds; ++i) check_both();
  vm.pause();
  check_both();
  CHECK(vm.failures().empty());
}

TEST_CASE("run_on: work from several threads runs once each, and nested work at once", "[kvm]") {
  NEEDS_KVM();
  constexpr size_t kThreads = 4;
  BareVm vm({kSpin});
  vm.reset_and_run();
  const int rounds = sized(50, 1'000);
  int done = 0;  // the vCPU's alone: always under the BQL, always on its thread
  int nested = 0;
  std::vector<Thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.push_back(MUST(Thread::start("requester", [&] {
      for (int i = 0; i < rounds; ++i) {
        const BqlGuard guard;
        vm.vcpu().run_on([&] {
          bql.assert_held();
          ++done;
          vm.vcpu().run_on([&] { ++nested; });
        });
      }
    })));
  }
  for (Thread& thread : threads) thread.join();
  CHECK(done == static_cast<int>(kThreads) * rounds);
  CHECK(nested == done);
  CHECK(vm.failures().empty());
}

TEST_CASE("BQL: a vCPU that waits for it does not stop another's lock-free reads", "[kvm]") {
  NEEDS_KVM();
  constexpr uint32_t kReads = 10'000;
  BareVm vm({kSlowRead, kFastReads});
  std::atomic<uint32_t> slow = 0, fast = 0;
  EventFd finished;
  Port slow_port(vm, kSlowPort, {.read = [&] { return uint64_t{++slow}; }});
  Port fast_port(vm, kFastPort, {.read = [&] { return uint64_t{++fast}; }},
                 memory::IoLocking::kLockFree);
  Port finish_port(vm, kDoorbellPort, {.write = [&] { finished.signal(); }},
                   memory::IoLocking::kLockFree);
  DonePort done(vm);
  vm.word(1) = kReads;
  vm.reset();
  Gate gate;
  vm.resume();
  gate.wait_for_arrivals(2);
  {
    const BqlGuard guard;
    const uint64_t bql_before = bql.acquisitions();
    gate.open(2);
    CHECK(finished.take() == 1);  // vCPU 1 is through, and the BQL was ours all the time
    while (vm.vcpu(0).exits() == 0) std::this_thread::yield();
    CHECK(fast == kReads);
    CHECK(slow == 0);
    CHECK(bql.acquisitions() == bql_before);
  }
  done.wait();
  CHECK(slow == 1);
  CHECK(vm.failures().empty());
}

TEST_CASE("reset: vCPUs and interrupt controllers come back as they were at power-on", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kInterrupts, kSpin});
  const Snapshot power_on = take_snapshot(vm, 2);
  DonePort ready(vm);
  const auto run = [&] {
    vm.reset_and_run();
    ready.wait();
    vm.pause();
  };
  vm.reset();
  const Snapshot entered = take_snapshot(vm, 2);
  run();
  const Snapshot used = take_snapshot(vm, 2);
  // The guest has set up both controllers and moved on: there is something to bring back.
  REQUIRE_FALSE(same_bytes(used.regs[0], entered.regs[0]));
  REQUIRE_FALSE(same_bytes(used.sregs[0], entered.sregs[0]));
  REQUIRE_FALSE(same_bytes(used.lapics[0], power_on.lapics[0]));
  REQUIRE_FALSE(same_bytes(used.chips[KVM_IRQCHIP_IOAPIC], power_on.chips[KVM_IRQCHIP_IOAPIC]));

  vm.reset();
  const Snapshot again = take_snapshot(vm, 2);
  for (size_t i = 0; i < 2; ++i) {
    CHECK(same_bytes(again.regs[i], entered.regs[i]));
    CHECK(same_bytes(again.sregs[i], entered.sregs[i]));
    CHECK(same_bytes(again.lapics[i], power_on.lapics[i]));
    CHECK(same_bytes(again.mp_states[i], entered.mp_states[i]));
  }
  for (size_t i = 0; i < again.chips.size(); ++i) {
    CHECK(same_bytes(again.chips[i], power_on.chips[i]));
  }
  run();  // and it works as the first time
  CHECK(vm.failures().empty());
}

TEST_CASE("reset: MTRRs, machine-check banks and PAT come back as they were at power-on", "[kvm]") {
  NEEDS_KVM();
  struct Row {
    uint32_t index;
    uint64_t value;
  };
  BareVm vm({kSpin});
  const RawVcpu vcpu(vm);
  for (const Row& row :
       {Row{0x200, 0x8000'0006}, Row{0x20f, 0x3fff'8000'0800}, Row{0x250, 0x0606'0606'0606'0606},
        Row{0x26f, 0x0404'0404'0404'0404}, Row{0x2ff, 0xc06},
        Row{0x277, 0x0007'0106'0007'0106},  // PAT
        Row{0x400, ~uint64_t{0}}, Row{0x401, 0x1234}, Row{0x402, 0x5678'9000}, Row{0x427, 0x77}}) {
    CAPTURE(row.index);
    const auto power_on = vcpu.msr(row.index);
    REQUIRE(power_on != row.value);
    REQUIRE(vcpu.set_msr(row.index, row.value));
    vm.reset();
    CHECK(vcpu.msr(row.index) == power_on);
  }
}

TEST_CASE("reset: MXCSR and AVX registers come back as they were at power-on", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  const RawVcpu vcpu(vm);
  const auto power_on = vcpu.xsave();
  const auto components = xsave_components(vcpu.xfeatures());
  if (components.empty()) WARN("SKIP: this host's KVM keeps no more than x87 and SSE");
  const auto used = filled_xsave(power_on, components);
  vcpu.set_xsave(used);
  REQUIRE(vcpu.xsave() == used);
  vm.reset();
  const auto again = vcpu.xsave();
  const auto same = [&](size_t offset, size_t bytes) {
    return std::memcmp(again.data() + offset, power_on.data() + offset, bytes) == 0;
  };
  CHECK(same(0, 512));
  for (const XsaveComponent& component : components) {
    INFO(component.name);
    CHECK(same(component.offset, component.bytes));
  }
}

TEST_CASE("reset: a secondary vCPU waits for INIT again", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin, kSpin});
  const Snapshot power_on = take_snapshot(vm, 2);
  vm.reset_and_run();
  vm.pause();
  {
    const BqlGuard guard;
    MUST(vm.accel().reset(vmm::BootState{}));
  }
  const Snapshot again = take_snapshot(vm, 2);
  CHECK(again.mp_states[1].mp_state == KVM_MP_STATE_UNINITIALIZED);
  CHECK(same_bytes(again.mp_states[1], power_on.mp_states[1]));
  CHECK(same_bytes(again.regs[1], power_on.regs[1]));
  CHECK(same_bytes(again.sregs[1], power_on.sregs[1]));
}

TEST_CASE("vcpu: as many MSRs as are asked for are read and set, however many a call takes",
          "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  const int fd = vm.vcpu().vcpu().fd();
  constexpr uint32_t kMissing = 0xdead;
  for (const unsigned count : {255U, 256U, 257U, 600U}) {
    CAPTURE(count);
    std::vector<uint32_t> indices(count, vmm::msr::kTscAdjust);
    indices.front() = indices.back() = kMissing;
    const auto entries = MUST(vmm::read_msrs(fd, indices));
    CHECK(entries.size() == count - 2);
    CHECK(vmm::set_msrs(fd, entries).has_value());
  }
}
