// BareVm: a few instructions on KVM, with RAM and ports that a test gives them, and nothing else.
#pragma once

#include <atomic>
#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <semaphore>
#include <span>
#include <string>
#include <vector>

#include "memory/address_space.h"
#include "memory/region.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/rcu.h"
#include "vmm/kvm/kvm_accel.h"
#include "vmm/vm_clock.h"

/// The first line of every test here. The check runner counts the warnings with SKIP.
#define NEEDS_KVM()                                          \
  do {                                                       \
    if (!rhea::vmm::kvm_present()) {                         \
      WARN("SKIP: /dev/kvm can not be opened on this host"); \
      return;                                                \
    }                                                        \
  } while (false)

namespace rhea::test {

// The programs of guest_code.S, which says what each does, and the numbers they share with us.
struct GuestCode {
  const char* begin;
  const char* end;
  std::span<const std::byte> bytes() const {
    return std::as_bytes(std::span(begin, static_cast<size_t>(end - begin)));
  }
};
extern "C" {
extern const char code_doorbells[], code_doorbells_end[];
extern const char code_mmio_doorbells[], code_mmio_doorbells_end[];
extern const char code_interrupts[], code_interrupts_end[];
extern const char code_spin[], code_spin_end[];
extern const char code_slow_read[], code_slow_read_end[];
extern const char code_fast_reads[], code_fast_reads_end[];
extern const char code_eject[], code_eject_end[];
extern const char code_write_on_command[], code_write_on_command_end[];
extern const char code_sweep[], code_sweep_end[];
extern const char code_sweep_once[], code_sweep_once_end[];
extern const char code_count[], code_count_end[];
extern const char code_vectors[], code_vectors_end[];
extern const char code_latched[], code_latched_end[];
extern const char code_timer[], code_timer_end[];
extern const char code_pit[], code_pit_end[];
extern const char code_start_secondary[], code_start_secondary_end[];
extern const char code_io[], code_io_end[];
extern const char code_clock[], code_clock_end[];
}
inline const GuestCode kDoorbells{code_doorbells, code_doorbells_end};
inline const GuestCode kMmioDoorbells{code_mmio_doorbells, code_mmio_doorbells_end};
inline const GuestCode kInterrupts{code_interrupts, code_interrupts_end};
inline const GuestCode kSpin{code_spin, code_spin_end};
inline const GuestCode kSlowRead{code_slow_read, code_slow_read_end};
inline const GuestCode kFastReads{code_fast_reads, code_fast_reads_end};
inline const GuestCode kEject{code_eject, code_eject_end};
inline const GuestCode kWriteOnCommand{code_write_on_command, code_write_on_command_end};
inline const GuestCode kSweep{code_sweep, code_sweep_end};
inline const GuestCode kSweepOnce{code_sweep_once, code_sweep_once_end};
inline const GuestCode kCount{code_count, code_count_end};
inline const GuestCode kVectors{code_vectors, code_vectors_end};
inline const GuestCode kLatched{code_latched, code_latched_end};
inline const GuestCode kTimer{code_timer, code_timer_end};
inline const GuestCode kPit{code_pit, code_pit_end};
inline const GuestCode kStartSecondary{code_start_secondary, code_start_secondary_end};
inline const GuestCode kIo{code_io, code_io_end};
inline const GuestCode kClock{code_clock, code_clock_end};
inline const GuestCode kNoCode{nullptr, nullptr};

inline constexpr uint64_t kDoorbellPort = 0x5000;
inline constexpr uint64_t kDonePort = 0x5010;
inline constexpr uint64_t kSlowPort = 0x5020;
inline constexpr uint64_t kFastPort = 0x5030;
inline constexpr uint64_t kEjectPort = 0x5040;
inline constexpr unsigned kInterruptGsi = 5;

/// Registers the thread with RCU as long as one of its machines lives.
class MachineThread {
 public:
  MachineThread() {
    if (machines_++ == 0) registration_.emplace();
  }
  ~MachineThread() {
    if (--machines_ == 0) registration_.reset();
  }
  MachineThread(const MachineThread&) = delete;
  MachineThread& operator=(const MachineThread&) = delete;

 private:
  inline static thread_local unsigned machines_ = 0;
  inline static thread_local std::optional<RcuThread> registration_;
};

struct BareVmOptions {
  vmm::DirtyTrackingConfig dirty = {};
  /// The RAM; a block of its own if none is given.
  std::shared_ptr<memory::RamBlock> ram = nullptr;
  /// What the vCPUs' rests are measured with; the host's if there is none. Outlives the machine.
  const Clock* clock = nullptr;
};

std::shared_ptr<memory::RamBlock> make_ram(uint64_t size_bytes);

/// A machine of RAM, an I/O space and vCPUs, vCPU n in 64-bit mode at the start of codes[n], or
/// waiting for INIT if that is empty.
///
/// Thread: the test's, which it registers with RCU and which holds the BQL only where a test takes
/// it. Invariants: ends the program if it lives for minutes: something hangs.
class BareVm final : private vmm::VcpuEvents {
 public:
  explicit BareVm(const std::vector<GuestCode>& codes, const BareVmOptions& options = {});
  ~BareVm();
  BareVm(const BareVm&) = delete;
  BareVm& operator=(const BareVm&) = delete;

  vmm::KvmAccel& accel() { return *accel_; }
  vmm::VcpuThread& vcpu(size_t index = 0) { return accel_->vcpu_thread(index); }
  memory::AddressSpace& memory() { return *memory_; }
  memory::RamBlock& ram_block() { return *ram_block_; }
  memory::MemoryRegion& memory_root() { return memory_root_; }
  memory::MemoryRegion& io_root() { return io_root_; }

  /// Where vCPU `index` starts.
  static uint64_t code_base(size_t index) { return 0x1'0000 + 0x1000 * index; }
  /// The guest's DATA[index], shared with the running guest.
  std::atomic_ref<uint32_t> word(size_t index);

  /// Puts every vCPU at its start, standing still.
  void reset();
  void pause();
  void resume();
  void reset_and_run() {
    reset();
    resume();
  }
  /// What another machine with the same RAM needs to go on where this one stands; stops it.
  std::vector<vmm::StateSection> save();
  /// Leaves it standing still.
  Result<void> load(std::span<const vmm::StateSection> sections);
  /// What the guest did wrong, as KVM saw it. Empty in a healthy test.
  std::string failures();

 private:
  void triple_fault() override;
  void internal_error(std::string report) override;
  void enter_secondary(size_t index, vmm::BootState boot) REQUIRES(bql);

  const Watchdog watchdog_{"a KVM test",
                           sized(std::chrono::seconds(60), std::chrono::seconds(600))};
  const MachineThread self_;
  const std::vector<GuestCode> codes_;
  const std::shared_ptr<memory::RamBlock> ram_block_;
  const HostClock host_clock_;
  vmm::VmClock clock_;
  std::unique_ptr<vmm::KvmAccel> accel_;
  memory::MemoryRegion memory_root_;
  memory::MemoryRegion io_root_;
  memory::MemoryRegion ram_;
  std::optional<memory::AddressSpace> memory_;
  std::optional<memory::AddressSpace> io_;
  std::string failures_ GUARDED_BY(bql);
};

/// Four bytes of I/O space with the test's handlers. Goes before its machine, which may be running.
class Port final : public memory::IoHandler {
 public:
  struct Handlers {
    std::function<uint64_t()> read = [] { return uint64_t{0}; };
    std::function<void()> write = [] {};
  };
  Port(BareVm& vm, uint64_t address, Handlers handlers,
       memory::IoLocking locking = memory::IoLocking::kBql);
  ~Port() override;
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  memory::MemoryRegion& region() { return region_; }
  uint64_t io_read(uint64_t, unsigned) override { return handlers_.read(); }
  void io_write(uint64_t, uint64_t, unsigned) override { handlers_.write(); }

 private:
  BareVm& vm_;
  const Handlers handlers_;
  memory::MemoryRegion region_;
};

/// The port on which a guest says that it is done; wait() takes one such word.
class DonePort {
 public:
  explicit DonePort(BareVm& vm) : port_(vm, kDonePort, {.write = [this] { said_.release(); }}) {}
  void wait() { said_.acquire(); }

 private:
  std::counting_semaphore<> said_{0};
  Port port_;
};

/// An eventfd; take() sleeps until it counts, and returns the count.
class EventFd {
 public:
  EventFd();
  int fd() const { return fd_.get(); }
  uint64_t take();
  /// 0 if nothing came.
  uint64_t take_now();
  void signal();

 private:
  Fd fd_;
};

}  // namespace rhea::test
