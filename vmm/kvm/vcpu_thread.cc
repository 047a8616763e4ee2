#include "vmm/kvm/vcpu_thread.h"

#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "util/check.h"
#include "util/log.h"
#include "util/sync_point.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

constexpr int kKickSignal = SIGUSR1;

/// A kick's only effect is EINTR. At the end of a slice there is nobody who has said so before.
void on_kick(int, siginfo_t* info, void*) {
  if (info->si_code != SI_TIMER) return;
  // A timer that is no slice's names nobody.
  if (auto* vcpu = static_cast<VcpuThread*>(info->si_value.sival_ptr)) vcpu->demand_attention();
}

void unblock_kick_signal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, kKickSignal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

std::atomic_ref<uint8_t> immediate_exit(kvm_run& run) {
  return std::atomic_ref<uint8_t>(run.immediate_exit);
}

const char* describe_suberror(uint32_t suberror) {
  switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
      return "an instruction that KVM can not emulate";
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      return "a fault while delivering a fault";
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      return "an exit while delivering an event";
    default:
      return "unknown";
  }
}

}  // namespace

void install_kick_signal() {
  struct sigaction action{};
  action.sa_sigaction = on_kick;
  action.sa_flags = SA_SIGINFO | SA_RESTART;  // KVM_RUN is never restarted
  ::sigaction(kKickSignal, &action, nullptr);
}

Result<std::unique_ptr<VcpuThread>> VcpuThread::start(std::unique_ptr<KvmVcpu> vcpu, unsigned index,
                                                      VcpuShared& shared) {
  std::unique_ptr<VcpuThread> self(new VcpuThread(std::move(vcpu), index, shared));
  self->thread_ =
      TRY(Thread::start(fmt::format("vcpu{}", index), [p = self.get()] { p->thread_main(); }));
  // The thread's id is part of the answer to query-cpus-fast, so wait until it is known.
  while (!self->stands_still_) shared.changed.wait(bql);
  return self;
}

VcpuThread::~VcpuThread() = default;

void VcpuThread::request_stop() {
  stop_requested_ = true;
  kick();
}

void VcpuThread::request_quit() {
  quit_requested_ = true;
  wake_.notify_all();
  kick();
}

void VcpuThread::resume() {
  stop_requested_ = false;
  wake_.notify_all();
}

void VcpuThread::run_on(std::move_only_function<void()> work) {
  if (pthread_equal(pthread_self(), thread_.native_handle()) != 0) return work();
  // Shared, not on this stack: the vCPU may still be inside notify when the wait returns.
  auto done = std::make_shared<bool>(false);
  work_.push_back([w = std::move(work), done]() mutable {
    w();
    *done = true;
  });
  wake_.notify_all();
  kick();
  while (!*done) shared_.changed.wait(bql);
}

Result<void> VcpuThread::throttle(unsigned percent) {
  TRY(throttle_.set(percent, {.thread_id = thread_id_, .signal = kKickSignal, .value = this}));
  wake_.notify_all();
  kick();
  return ok();
}

void VcpuThread::demand_attention() noexcept {
  attention_.store(true, std::memory_order_seq_cst);
  // seq_cst on both: pairs with run_guest(), which stores immediate_exit and then loads attention_
  immediate_exit(vcpu_->run()).store(1, std::memory_order_seq_cst);
}

void VcpuThread::kick() noexcept {
  demand_attention();
  RHEA_SYNC_POINT("vcpu.kick.before_signal");
  if (thread_.joinable()) pthread_kill(thread_.native_handle(), kKickSignal);
}

void VcpuThread::thread_main() {
  unblock_kick_signal();
  BqlGuard guard;
  thread_id_ = current_thread_id();
  while (serve_requests()) {
    bql.unlock();
    run_guest();
    bql.lock();
  }
  finished_ = true;
  shared_.changed.notify_all();
}

/// Does what was asked for, standing still as long as that is asked, or it has to rest. False:
/// quit.
bool VcpuThread::serve_requests() {
  while (true) {
    attention_.store(false,
                     std::memory_order_relaxed);  // the requests themselves are under the BQL
    run_work();
    if (quit_requested_) return false;
    const Nanoseconds still = stop_requested_ ? Nanoseconds::max() : throttle_.rest();
    if (still == Nanoseconds(0)) break;
    stand_still(still);
  }
  stands_still_ = false;
  return true;
}

void VcpuThread::stand_still(Nanoseconds at_most) {
  if (!std::exchange(stands_still_, true)) shared_.changed.notify_all();
  if (at_most == Nanoseconds::max()) return wake_.wait(bql);
  wake_.wait_for(bql, at_most);
}

void VcpuThread::run_work() {
  while (!work_.empty()) {
    auto work = std::move(work_.front());
    work_.pop_front();
    work();
    shared_.changed.notify_all();
  }
}

void VcpuThread::run_guest() {
  while (true) {
    immediate_exit(vcpu_->run()).store(0, std::memory_order_seq_cst);
    RHEA_SYNC_POINT("vcpu.run.before_attention_check");
    if (attention_.load(std::memory_order_seq_cst)) {  // pairs with kick()
      complete_io();
      return;
    }
    RHEA_SYNC_POINT("vcpu.run.before_enter");
    run_once();
  }
}

void VcpuThread::run_once() {
  const int result = ::ioctl(vcpu_->fd(), KVM_RUN, 0);
  const int error = result < 0 ? errno : 0;
  exits_.fetch_add(1, std::memory_order_relaxed);
  if (error == 0) return dispatch();
  // EINTR: a kick. EAGAIN: an AP left its wait for INIT or SIPI; the next run enters the guest.
  if (error == EINTR || error == EAGAIN) return;
  report_internal_error(fmt::format("KVM_RUN: {}", std::strerror(error)));
}

/// The second half of a port or MMIO access is done by the kernel at the next entry: finish it
/// before the vCPU stands still, so that its registers are those between two instructions.
void VcpuThread::complete_io() {
  while (true) {
    immediate_exit(vcpu_->run()).store(1, std::memory_order_relaxed);  // for this thread's KVM_RUN
    if (::ioctl(vcpu_->fd(), KVM_RUN, 0) < 0) return;  // EINTR: nothing is left to complete
    dispatch();  // an access that crosses a page comes in two parts
  }
}

void VcpuThread::dispatch() {
  kvm_run& run = vcpu_->run();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      return dispatch_io();
    case KVM_EXIT_MMIO:
      return dispatch_mmio();
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return;
    case KVM_EXIT_DIRTY_RING_FULL:
      return shared_.slots.reap();
    case KVM_EXIT_SHUTDOWN:
      return report_triple_fault();
    case KVM_EXIT_INTERNAL_ERROR:
      return report_internal_error(fmt::format("KVM internal error, suberror {}: {}",
                                               run.internal.suberror,
                                               describe_suberror(run.internal.suberror)));
    case KVM_EXIT_FAIL_ENTRY:
      return report_internal_error(fmt::format("KVM entry failed, hardware reason {:#x}",
                                               run.fail_entry.hardware_entry_failure_reason));
    default:
      return report_internal_error(fmt::format("unexpected KVM exit {}", run.exit_reason));
  }
}

void VcpuThread::dispatch_io() {
  const kvm_run& run = vcpu_->run();
  auto* data = reinterpret_cast<std::byte*>(&vcpu_->run()) + run.io.data_offset;
  const memory::GuestAddr port{run.io.port};
  const unsigned size = run.io.size;
  for (uint32_t i = 0; i < run.io.count; ++i, data += size) {
    uint64_t value = 0;
    if (run.io.direction == KVM_EXIT_IO_OUT) {
      std::memcpy(&value, data, size);
      shared_.io.store(port, value, size);
    } else {
      value = shared_.io.load(port, size);
      std::memcpy(data, &value, size);
    }
  }
}

void VcpuThread::dispatch_mmio() {
  kvm_run& run = vcpu_->run();
  const memory::GuestAddr address{run.mmio.phys_addr};
  const auto data = std::as_writable_bytes(std::span(run.mmio.data)).first(run.mmio.len);
  // The result is not the guest's business: what no device takes reads as ones and is traced there.
  if (run.mmio.is_write != 0) {
    static_cast<void>(shared_.memory.write(address, data));
  } else {
    static_cast<void>(shared_.memory.read(address, data));
  }
}

void VcpuThread::report_triple_fault() {
  BqlGuard guard;
  request_stop();
  shared_.events.triple_fault();
}

void VcpuThread::report_internal_error(const std::string& what) {
  std::string report =
      fmt::format("vCPU {}: {}\n{}Code={}\n", index_, what, vcpu_->dump_registers(), code_bytes());
  BqlGuard guard;
  request_stop();
  shared_.events.internal_error(std::move(report));
}

/// The bytes at RIP, read through the guest's page tables.
std::string VcpuThread::code_bytes() const {
  constexpr size_t kBytes = 16;
  kvm_regs regs{};
  if (::ioctl(vcpu_->fd(), KVM_GET_REGS, &regs) < 0) return "not readable";
  kvm_sregs sregs{};
  if (::ioctl(vcpu_->fd(), KVM_GET_SREGS, &sregs) < 0) return "not readable";
  std::string text;
  for (size_t i = 0; i < kBytes; ++i) {
    kvm_translation translation{};
    translation.linear_address = sregs.cs.base + regs.rip + i;
    std::byte byte{};
    if (::ioctl(vcpu_->fd(), KVM_TRANSLATE, &translation) < 0 || translation.valid == 0 ||
        !shared_.memory.read_ram(memory::GuestAddr{translation.physical_address}, {&byte, 1})) {
      text += " ??";
      continue;
    }
    text += fmt::format(" {:02x}", std::to_integer<unsigned>(byte));
  }
  return text.substr(1);
}

}  // namespace rhea::vmm
