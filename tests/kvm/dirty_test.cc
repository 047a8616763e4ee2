// Which pages the vCPUs wrote: exactly those, and none is lost, in each way that KVM can tell it.
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "memory/ram_block.h"
#include "memory/topology.h"
#include "tests/kvm/bare_vm.h"
#include "tests/support/size.h"
#include "tests/support/sync_action.h"
#include "tests/support/syscall_filter.h"
#include "util/check.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::test;
using memory::DirtyClient;
using memory::kDirtyPageBytes;
using vmm::DirtyTracking;

namespace {

constexpr DirtyClient kClient = DirtyClient::kMigration;
constexpr uint32_t kRingEntries = 1024;
constexpr uint64_t kRamBytes = 16 << 20;
constexpr uint64_t kFirstPage = 512;  // behind what the machine itself puts into RAM

using Pages = std::set<uint64_t>;

vmm::DirtyTrackingConfig config_of(DirtyTracking tracking) {
  if (tracking == DirtyTracking::kRing) return {.ring_entries = kRingEntries};
  return {.best_log = tracking};
}

/// Why this host can not track so; empty if it can.
std::string missing(DirtyTracking tracking) {
  const HostClock host;
  vmm::VmClock clock(host, vmm::VmClock::Mode::kFollowsHost);
  const BqlGuard guard;
  auto accel = vmm::KvmAccel::create(clock, config_of(tracking));
  if (!accel) return accel.error().message();
  if ((*accel)->dirty_tracking() == tracking) return {};
  return fmt::format("KVM falls back to {}", to_string((*accel)->dirty_tracking()));
}

/// Runs `body(tracking)` for each way that the host has, and says which it has not.
template <class Body>
void for_each_tracking(std::initializer_list<DirtyTracking> ways, Body&& body) {
  for (const DirtyTracking tracking : ways) {
    const std::string reason = missing(tracking);
    if (reason.empty()) {
      INFO(to_string(tracking));
      body(tracking);
    } else {
      WARN("SKIP: no " << to_string(tracking) << " on this host: " << reason);
    }
  }
}

constexpr auto kAllWays = {DirtyTracking::kLog, DirtyTracking::kClearedLog,
                           DirtyTracking::kInitiallySetLog, DirtyTracking::kRing};

/// A machine whose writes are logged from start_log() on, as a client sees them.
class LoggedVm {
 public:
  LoggedVm(const GuestCode& code, DirtyTracking tracking)
      : vm_({code}, {.dirty = config_of(tracking), .ram = make_ram(kRamBytes)}) {}
  ~LoggedVm() {
    vm_.pause();
    const BqlGuard guard;
    if (logging_) memory::topology.stop_dirty_log(kClient);
  }
  LoggedVm(const LoggedVm&) = delete;
  LoggedVm& operator=(const LoggedVm&) = delete;

  BareVm& vm() { return vm_; }
  memory::RamBlock& ram() { return vm_.ram_block(); }
  uint32_t* page(uint64_t number) {
    return reinterpret_cast<uint32_t*>(ram().host() + number * kDirtyPageBytes);
  }

  /// Leaves no page dirty, neither here nor in KVM.
  void start_log() {
    const BqlGuard guard;
    MUST(memory::topology.start_dirty_log(kClient));
    logging_ = true;
    sync();
    take(ram());
  }
  void sync() { memory::topology.sync_dirty_log(); }
  /// The dirty pages of a block, cleared as a client does it.
  static Pages take(memory::RamBlock& block) {
    Pages pages;
    for (uint64_t w = 0; w < block.dirty().words(); ++w) {
      const uint64_t bits = block.dirty().test_and_clear_word(kClient, w);
      for (unsigned b = 0; b < 64; ++b) {
        if ((bits >> b & 1) != 0) pages.insert(w * 64 + b);
      }
    }
    memory::topology.clear_dirty_log(block, 0, block.size_bytes());
    return pages;
  }
  Pages sync_and_take() {
    sync();
    return take(ram());
  }

 private:
  BareVm vm_;
  bool logging_ = false;
};

/// A guest that adds one to the word at an address when it is told, and nothing else.
class Writer {
 public:
  explicit Writer(LoggedVm& logged)
      : logged_(logged),
        port_(logged.vm(), kFastPort, {.write = [this] { done_.signal(); }},
              memory::IoLocking::kLockFree) {
    logged.vm().word(0) = 0;
    logged.vm().reset_and_run();
    // The first access below each entry of the guest's page tables writes to that.
    for (uint64_t page = kFirstPage; page < kRamBytes / kDirtyPageBytes; page += 512) write(page);
  }
  void write(uint64_t page) {
    logged_.vm().word(1) = static_cast<uint32_t>(page * kDirtyPageBytes);
    ++logged_.vm().word(0);
    done_.take();
  }
  void write_all(const Pages& pages) {
    for (const uint64_t page : pages) write(page);
  }

 private:
  LoggedVm& logged_;
  EventFd done_;
  Port port_;
};

/// Interrupts this thread's system calls every 50 microseconds with the signal that kick() sends.
class SignalStorm {
 public:
  SignalStorm() {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event._sigev_un._tid = current_thread_id();
    RHEA_CHECK(::timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0);
    const itimerspec often{.it_interval = {.tv_sec = 0, .tv_nsec = kPeriodNs},
                           .it_value = {.tv_sec = 0, .tv_nsec = kPeriodNs}};
    RHEA_CHECK(::timer_settime(timer_, 0, &often, nullptr) == 0);
  }
  ~SignalStorm() { ::timer_delete(timer_); }
  SignalStorm(const SignalStorm&) = delete;
  SignalStorm& operator=(const SignalStorm&) = delete;

 private:
  static constexpr long kPeriodNs = 50'000;
  timer_t timer_{};
};

/// From where it is told of a log, KVM refuses its thread everything; and so does it.
class Refuser final : public memory::MemoryListener {
 public:
  Result<void> log_start(const memory::Section&) override {
    forbid_syscall(SYS_ioctl, ENOMEM);
    return fail(ErrorKind::kResource, "not here");
  }
};

/// What starting the log fails with, on a thread whose calls of KVM fail: the first or, once they
/// are told of the log, all that follow. Nobody logs then.
enum class Refused : uint8_t { kStart, kStop };
std::string refused_start(LoggedVm& logged, Refused refused) {
  std::string message;
  MUST(Thread::start("refused", [&] {
    const BqlGuard guard;
    const auto refuser = std::make_shared<Refuser>();
    constexpr int kLast = 1000;
    if (refused == Refused::kStop) logged.vm().memory().register_listener(refuser, kLast);
    if (refused == Refused::kStart) forbid_syscall(SYS_ioctl, ENOMEM);
    const auto started = memory::topology.start_dirty_log(kClient);
    message = started ? "it started" : started.error().message();
    if (refused == Refused::kStop) logged.vm().memory().unregister_listener(*refuser);
  })).join();
  CHECK_FALSE(memory::topology.dirty_logging());
  return message;
}

Pages range(uint64_t first, uint64_t count) {
  Pages pages;
  for (uint64_t page = first; page < first + count; ++page) pages.insert(page);
  return pages;
}

}  // namespace

TEST_CASE("dirty: exactly the written pages are reported, once for each pass", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking(kAllWays, [](DirtyTracking tracking) {
    LoggedVm logged(kWriteOnCommand, tracking);
    Writer writer(logged);
    logged.start_log();
    const Pages first{kFirstPage, 513, 575, 576, 640, 1000, kRamBytes / kDirtyPageBytes - 1};
    const Pages second{513, 514, 640, 2000};
    writer.write_all(first);
    CHECK(logged.sync_and_take() == first);
    CHECK(logged.sync_and_take().empty());
    writer.write_all(second);
    logged.sync();
    logged.sync();  // adds nothing
    CHECK(logged.sync_and_take() == second);
    writer.write_all(first);  // protected again: seen again
    CHECK(logged.sync_and_take() == first);
    CHECK(logged.vm().failures().empty());
  });
}

TEST_CASE("dirty: a log that begins set reports every page, and after the clear none", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking({DirtyTracking::kInitiallySetLog}, [](DirtyTracking tracking) {
    LoggedVm logged(kWriteOnCommand, tracking);
    Writer writer(logged);
    {
      const BqlGuard guard;
      MUST(memory::topology.start_dirty_log(kClient));
    }
    // What a first pass does: no fetch before it, and pages are cleared piece by piece.
    CHECK(logged.ram().dirty().count(kClient) == logged.ram().dirty().pages());
    CHECK(LoggedVm::take(logged.ram()).size() == logged.ram().dirty().pages());
    CHECK(logged.sync_and_take().empty());
    writer.write(777);
    CHECK(logged.sync_and_take() == Pages{777});
    const BqlGuard guard;
    memory::topology.stop_dirty_log(kClient);
  });
}

TEST_CASE("dirty: pieces are cleared by themselves, whatever their bounds", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking(
      {DirtyTracking::kClearedLog, DirtyTracking::kInitiallySetLog}, [](DirtyTracking tracking) {
        LoggedVm logged(kWriteOnCommand, tracking);
        Writer writer(logged);
        logged.start_log();
        writer.write_all(range(600, 80));
        logged.sync();
        // The client takes pages 610 to 649 alone.
        CHECK(logged.ram().dirty().test_and_clear_range(kClient, 610 * kDirtyPageBytes,
                                                        40 * kDirtyPageBytes));
        memory::topology.clear_dirty_log(logged.ram(), 610 * kDirtyPageBytes, 40 * kDirtyPageBytes);
        Pages others = range(600, 10);
        others.merge(range(650, 30));
        CHECK(logged.sync_and_take() == others);
        CHECK(logged.sync_and_take().empty());
        CHECK(logged.vm().failures().empty());
      });
}

TEST_CASE("dirty: a page written between fetch and clear is reported by the next fetch", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking(
      {DirtyTracking::kClearedLog, DirtyTracking::kInitiallySetLog}, [](DirtyTracking tracking) {
        LoggedVm logged(kWriteOnCommand, tracking);
        Writer writer(logged);
        logged.start_log();
        writer.write(600);
        logged.sync();
        const uint32_t before = *logged.page(600);
        {
          // Of these two, one is dirty for the client and one is not. Both are in the cleared
          // range.
          const SyncAction late("KvmSlots::log_clear: the client's bits are clear, KVM's not",
                                [&] { writer.write_all({600, 601}); });
          CHECK(LoggedVm::take(logged.ram()) == Pages{600});
        }
        CHECK(*logged.page(600) == before + 1);  // which a client that reads it now has
        CHECK(logged.sync_and_take() == Pages{601});
        CHECK(logged.vm().failures().empty());
      });
}

TEST_CASE("dirty: a page written while its ring entry is reaped is never lost", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking({DirtyTracking::kRing}, [](DirtyTracking tracking) {
    for (const char* point : {"KvmSlots::reap: collected, not yet protected",
                              "KvmSlots::reap: protected, not yet marked"}) {
      INFO(point);
      LoggedVm logged(kWriteOnCommand, tracking);
      Writer writer(logged);
      logged.start_log();
      writer.write(600);
      // A client that is quicker than the reaper: what it reads when the page is dirty is its copy.
      std::optional<uint32_t> copy;
      const auto copy_if_dirty = [&] {
        if (LoggedVm::take(logged.ram()).contains(600)) copy = *logged.page(600);
      };
      bool first = true;
      {
        const SyncAction late(point, [&] {
          if (!std::exchange(first, false)) return;
          if (logged.ram().dirty().test_and_clear_range(kClient, 600 * kDirtyPageBytes, 1)) {
            copy = *logged.page(600);
          }
          writer.write(600);
        });
        logged.sync();
      }
      copy_if_dirty();
      logged.sync();
      copy_if_dirty();
      CHECK(copy == *logged.page(600));
      CHECK(logged.vm().failures().empty());
    }
  });
}

TEST_CASE("dirty: every page is protected again though signals interrupt its reset", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking({DirtyTracking::kRing}, [](DirtyTracking tracking) {
    LoggedVm logged(kSweepOnce, tracking);
    DonePort done(logged.vm());
    constexpr uint64_t kPages = 700;  // less than a ring holds
    logged.vm().word(0) = kPages;
    logged.vm().word(1) = kFirstPage * kDirtyPageBytes;
    logged.start_log();
    const Pages expected = range(kFirstPage, kPages);
    const int rounds = sized(5, 200);
    for (int i = 0; i < rounds; ++i) {
      logged.vm().reset_and_run();
      done.wait();
      logged.vm().pause();
      {
        const SignalStorm kicks;
        logged.sync();
      }
      CHECK(std::ranges::includes(LoggedVm::take(logged.ram()), expected));
    }
    CHECK(logged.vm().failures().empty());
  });
}

TEST_CASE("dirty: a vCPU whose ring is full empties it and goes on", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking({DirtyTracking::kRing}, [](DirtyTracking tracking) {
    LoggedVm logged(kSweepOnce, tracking);
    DonePort done(logged.vm());
    const uint64_t pages = kRamBytes / kDirtyPageBytes - kFirstPage;
    static_assert(kRamBytes / kDirtyPageBytes - kFirstPage > 3 * kRingEntries);
    logged.vm().word(0) = static_cast<uint32_t>(pages);
    logged.vm().word(1) = kFirstPage * kDirtyPageBytes;
    logged.start_log();
    for (int pass = 0; pass < 2; ++pass) {
      logged.vm().reset_and_run();
      done.wait();
      logged.vm().pause();
      const Pages dirty = logged.sync_and_take();
      const Pages expected = range(kFirstPage, pages);
      CHECK(std::ranges::includes(dirty, expected));
      CHECK(dirty.size() <= expected.size() + kFirstPage);  // page tables may be among them
    }
    CHECK(logged.vm().failures().empty());
  });
}

TEST_CASE("dirty: a slot that goes while it is logged leaves its RAM marked", "[kvm]") {
  NEEDS_KVM();
  constexpr uint64_t kBase = 32 << 20;
  constexpr uint64_t kSkipped = 5;  // the window begins here in its block: no multiple of 64
  constexpr uint64_t kWindowPages = 200;
  for_each_tracking(kAllWays, [](DirtyTracking tracking) {
    const auto block = make_ram(1 << 20);
    LoggedVm logged(kWriteOnCommand, tracking);
    memory::MemoryRegion region("extra", block);
    memory::MemoryRegion window("window", region, kSkipped * kDirtyPageBytes,
                                kWindowPages * kDirtyPageBytes);
    const auto show = [&] {
      const BqlGuard guard;
      logged.vm().memory_root().add(window, kBase);
    };
    const auto hide = [&] {
      const BqlGuard guard;
      logged.vm().memory_root().remove(window);
    };
    show();
    Writer writer(logged);
    writer.write(kBase / kDirtyPageBytes);
    logged.start_log();
    LoggedVm::take(*block);
    writer.write(kBase / kDirtyPageBytes + 100);
    logged.sync();
    CHECK(LoggedVm::take(*block) == Pages{kSkipped + 100});
    writer.write(kBase / kDirtyPageBytes + 7);
    hide();
    CHECK(LoggedVm::take(*block) == range(kSkipped, kWindowPages));
    logged.sync();  // of a section that is not there any more
    show();
    if (tracking == DirtyTracking::kInitiallySetLog) {
      CHECK(LoggedVm::take(*block) == range(kSkipped, kWindowPages));
    }
    writer.write(kBase / kDirtyPageBytes + 150);
    logged.sync();
    CHECK(LoggedVm::take(*block) == Pages{kSkipped + 150});
    hide();
    CHECK(logged.vm().failures().empty());
  });
}

TEST_CASE("dirty: copies made while the guest writes agree with RAM in the end", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking(kAllWays, [](DirtyTracking tracking) {
    LoggedVm logged(kSweep, tracking);
    memory::RamBlock& ram = logged.ram();
    constexpr uint64_t kPages = 1500;
    logged.vm().word(0) = kPages;
    logged.vm().word(1) = kFirstPage * kDirtyPageBytes;
    logged.vm().reset_and_run();
    logged.start_log();
    std::vector<std::byte> copy(ram.bytes().begin(), ram.bytes().end());
    uint64_t copied = 0;
    const auto pass = [&] {
      for (const uint64_t page : logged.sync_and_take()) {
        const uint64_t offset = page * kDirtyPageBytes;
        std::memcpy(copy.data() + offset, ram.host() + offset, kDirtyPageBytes);
        ++copied;
      }
    };
    const std::atomic_ref<uint32_t> sweeps(*logged.page(kFirstPage));
    const auto enough = sized<uint32_t>(5, 100);
    while (sweeps < enough) pass();
    logged.vm().pause();
    pass();
    CHECK(copied > 0);
    uint64_t differing = 0;
    for (uint64_t offset = 0; offset < ram.size_bytes(); offset += kDirtyPageBytes) {
      if (std::memcmp(copy.data() + offset, ram.host() + offset, kDirtyPageBytes) != 0) ++differing;
    }
    CHECK(differing == 0);
    CHECK(logged.vm().failures().empty());
  });
}

TEST_CASE("dirty: a log that KVM has no memory for is off, and the guest goes on", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking(kAllWays, [](DirtyTracking tracking) {
    LoggedVm logged(kWriteOnCommand, tracking);
    Writer writer(logged);
    CHECK(refused_start(logged, Refused::kStart) ==
          "The dirty log of 0x1000000 bytes of RAM at 0x0 can not be started: "
          "KVM_SET_USER_MEMORY_REGION: Cannot allocate memory");
    writer.write(700);
    logged.start_log();
    writer.write(701);
    CHECK(logged.sync_and_take() == Pages{701});
    CHECK(logged.vm().failures().empty());
  });
}

TEST_CASE("dirty: after a log that KVM did not stop the next one is as exact", "[kvm]") {
  NEEDS_KVM();
  for_each_tracking(kAllWays, [](DirtyTracking tracking) {
    LoggedVm logged(kWriteOnCommand, tracking);
    Writer writer(logged);
    CHECK(refused_start(logged, Refused::kStop) == "not here");
    writer.write(700);
    logged.start_log();
    writer.write_all({700, 701});
    CHECK(logged.sync_and_take() == Pages{700, 701});
    CHECK(logged.sync_and_take().empty());
    CHECK(logged.vm().failures().empty());
  });
}
