// VcpuThread: runs one vCPU and hands its exits to the machine.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>

#include "memory/address_space.h"
#include "util/bql.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/mutex.h"
#include "util/thread.h"
#include "vmm/accel.h"
#include "vmm/kvm/kvm_slots.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/kvm/vcpu_throttle.h"

namespace rhea::vmm {

/// What the vCPUs of a machine share. `changed` is notified, under the BQL, whenever a vCPU
/// started, stood still or finished a piece of work.
struct VcpuShared {
  memory::AddressSpace& memory;
  memory::AddressSpace& io;
  KvmSlots& slots;
  VcpuEvents& events;
  const Clock& host_clock;
  CondVar changed;
};

/// One vCPU and its thread.
///
/// The thread loops: with the BQL, do what was asked (work, stand still, quit); without it, KVM_RUN
/// and exit dispatch until somebody asks again. Asking is: say what under the BQL, then kick(). A
/// kick is never lost: `attention_` is set before the run page's immediate_exit, and the vCPU
/// clears immediate_exit before it reads `attention_`, each with a full fence between (C1).
///
/// A throttled vCPU also stands still when nobody asked, for the rests that VcpuThrottle gives it;
/// the signal at the end of a slice does what kick() does. Whoever asks it to stand still then
/// finds it so; what else is asked ends the sleep.
///
/// Thread: the public calls from main (or a vCPU) with the BQL, except kick() and exits().
class VcpuThread {
 public:
  /// Starts the thread; the vCPU stands still until resume().
  static Result<std::unique_ptr<VcpuThread>> start(std::unique_ptr<KvmVcpu> vcpu, unsigned index,
                                                   VcpuShared& shared) REQUIRES(bql);
  /// The thread must have been told to quit and the BQL be free while it is joined.
  ~VcpuThread();

  KvmVcpu& vcpu() noexcept { return *vcpu_; }
  int thread_id() const REQUIRES(bql) { return thread_id_; }

  void request_stop() REQUIRES(bql);
  void request_quit() REQUIRES(bql);
  void resume() REQUIRES(bql);
  /// Between two instructions, and there until resume() or, if nobody has asked for it, the end of
  /// a rest, neither of which can come before the BQL is released.
  bool stands_still() const REQUIRES(bql) { return stands_still_; }
  bool finished() const REQUIRES(bql) { return finished_; }
  /// Runs `work` on the vCPU's thread with the BQL held and waits for it: releases the BQL while it
  /// waits, so it is called at top level. On the vCPU's own thread it runs at once.
  void run_on(std::move_only_function<void()> work) REQUIRES(bql);

  /// Stands still for `percent` of the time. Errors: see VcpuThrottle::set().
  Result<void> throttle(unsigned percent) REQUIRES(bql);

  /// Makes KVM_RUN return soon. Any thread, no lock needed.
  void kick() noexcept;
  /// A kick without its signal: enough on the vCPU's own thread, in the handler of one.
  void demand_attention() noexcept;
  /// KVM_RUN returns to user space so far, kicks included; for tests and statistics.
  uint64_t exits() const noexcept { return exits_.load(std::memory_order_relaxed); }

 private:
  VcpuThread(std::unique_ptr<KvmVcpu> vcpu, unsigned index, VcpuShared& shared)
      : vcpu_(std::move(vcpu)), index_(index), shared_(shared), throttle_(shared.host_clock) {}

  void thread_main();
  bool serve_requests() REQUIRES(bql);
  void stand_still(Nanoseconds at_most) REQUIRES(bql);
  void run_work() REQUIRES(bql);
  void run_guest() EXCLUDES(bql);
  void run_once() EXCLUDES(bql);
  void complete_io() EXCLUDES(bql);
  void dispatch() EXCLUDES(bql);
  void dispatch_io();
  void dispatch_mmio();
  void report_triple_fault() EXCLUDES(bql);
  void report_internal_error(const std::string& what) EXCLUDES(bql);
  std::string code_bytes() const;

  const std::unique_ptr<KvmVcpu> vcpu_;
  const unsigned index_;
  VcpuShared& shared_;
  Thread thread_;

  int thread_id_ GUARDED_BY(bql) = 0;
  bool stop_requested_ GUARDED_BY(bql) = true;
  bool quit_requested_ GUARDED_BY(bql) = false;
  bool stands_still_ GUARDED_BY(bql) = false;
  bool finished_ GUARDED_BY(bql) = false;
  std::deque<std::move_only_function<void()>> work_ GUARDED_BY(bql);
  CondVar wake_;  // this vCPU's thread waits here, under the BQL
  VcpuThrottle throttle_;

  std::atomic<bool> attention_{false};
  std::atomic<uint64_t> exits_{0};  // relaxed: a statistic, orders nothing
};

/// Installs the handler of the signal that kick() sends. Once, before the first vCPU thread.
void install_kick_signal();

}  // namespace rhea::vmm
