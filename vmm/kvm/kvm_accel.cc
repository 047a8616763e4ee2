#include "vmm/kvm/kvm_accel.h"

#include <algorithm>
#include <cstdint>

#include "util/check.h"
#include "util/log.h"
#include "vmm/kvm/kvm_cpuid.h"
#include "vmm/kvm/kvm_doorbells.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

// RAM slots before everything else, so that a doorbell or an exit never meets missing RAM.
constexpr int kSlotsPriority = 10;
constexpr int kDoorbellsPriority = 20;

}  // namespace

KvmAccel::KvmAccel(std::unique_ptr<KvmVm> vm, VmClock& clock, DirtyTracking dirty_tracking,
                   uint32_t ring_entries)
    : vm_(std::move(vm)),
      clock_(clock),
      dirty_tracking_(dirty_tracking),
      irqs_(vm_->fd(), static_cast<unsigned>(vm_->capability(KVM_CAP_IRQ_ROUTING))),
      msi_(irqs_),
      slots_(std::make_shared<KvmSlots>(vm_->fd(),
                                        static_cast<unsigned>(vm_->capability(KVM_CAP_NR_MEMSLOTS)),
                                        dirty_tracking, ring_entries)) {}

Result<std::unique_ptr<KvmAccel>> KvmAccel::create(VmClock& clock,
                                                   const DirtyTrackingConfig& dirty) {
  std::unique_ptr<KvmVm> vm = TRY(KvmVm::create());
  const DirtyTracking tracking = TRY(enable_dirty_tracking(*vm, dirty));
  install_kick_signal();
  return std::unique_ptr<KvmAccel>(
      new KvmAccel(std::move(vm), clock, tracking, dirty.ring_entries));
}

KvmAccel::~KvmAccel() = default;

Result<void> KvmAccel::attach(memory::AddressSpace& memory, memory::AddressSpace& io) {
  memory_ = &memory;
  io_ = &io;
  memory.register_listener(slots_, kSlotsPriority);
  memory.register_listener(std::make_shared<KvmDoorbells>(vm_->fd(), KvmDoorbells::Space::kMemory),
                           kDoorbellsPriority);
  io.register_listener(std::make_shared<KvmDoorbells>(vm_->fd(), KvmDoorbells::Space::kIo),
                       kDoorbellsPriority);
  // After the RAM slots: measured on Linux 6.18, a slot set soon after the irqchip was made takes
  // several milliseconds, and one set before it does not. Presumably, but nobody has traced it, the
  // slot waits for a grace period of the VM's SRCU that the irqchip's devices have started.
  TRY(vm_->create_irqchip());
  return irqs_.install_routes();
}

Result<void> KvmAccel::create_vcpus(const SmpConfig& smp, VcpuEvents& events) {
  if (smp.cpus > vm_->max_vcpus()) {
    return fail(ErrorKind::kInvalidArgument,
                "Number of SMP CPUs requested ({}) exceeds the maximum supported by KVM ({})",
                smp.cpus, vm_->max_vcpus());
  }
  smp_ = smp;
  shared_.reset(new VcpuShared{*memory_, *io_, *slots_, events, clock_.host(), {}});
  const CpuidTable cpuid = TRY(CpuidTable::create(vm_->device_fd(), smp));
  const ApicTopology topology = ApicTopology::of(smp);
  std::vector<std::unique_ptr<KvmVcpu>> vcpus;
  for (unsigned i = 0; i < smp.cpus; ++i) {
    vcpus.push_back(TRY(KvmVcpu::create(*vm_, topology.apic_id(smp, i), cpuid.for_vcpu(i))));
    TRY(slots_->add_ring(vcpus.back()->fd()));
  }
  TRY(vm_->save_power_on_irqchip());
  for (unsigned i = 0; i < smp.cpus; ++i) {
    threads_.push_back(TRY(VcpuThread::start(std::move(vcpus[i]), i, *shared_)));
  }
  return ok();
}

void KvmAccel::hold_vcpus() {
  for (auto& thread : threads_) thread->request_stop();
}

bool KvmAccel::all_stand_still() const {
  bql.assert_held();
  for (const auto& thread : threads_) {
    if (!thread->stands_still()) return false;
  }
  return true;
}

void KvmAccel::pause_vcpus() {
  hold_vcpus();
  while (!all_stand_still()) shared_->changed.wait(bql);
  if (!running_) return;
  running_ = false;
  if (auto clock = vm_->clock(); clock) paused_clock_ = *clock;
  for (auto& thread : threads_) thread->vcpu().note_paused();
}

void KvmAccel::resume_vcpus() {
  if (paused_clock_) {
    // The guest's time goes on where it stood, not where the host is now.
    if (auto done = vm_->set_clock(*paused_clock_); !done) {
      RHEA_LOG(kVmm, kError, "the guest's clock can not be set: {}", done.error().message());
    }
    paused_clock_.reset();
  }
  running_ = true;
  for (auto& thread : threads_) thread->resume();
}

void KvmAccel::throttle_vcpus(unsigned percent) {
  for (size_t i = 0; i < threads_.size(); ++i) {
    if (auto done = threads_[i]->throttle(percent); !done) {
      RHEA_LOG(kVmm, kError, "vCPU {} can not be throttled: {}", i, done.error().message());
    }
  }
}

Result<void> KvmAccel::reset(const BootState& boot) {
  RHEA_CHECK(all_stand_still(), "reset while a vCPU runs");
  TRY(vm_->reset_irqchip());
  for (auto& thread : threads_) TRY(thread->vcpu().reset(*vm_));
  paused_clock_.reset();
  return threads_.front()->vcpu().set_boot_registers(boot);
}

void KvmAccel::shut_down() {
  for (auto& thread : threads_) thread->request_quit();
  const auto finished = [this] {
    bql.assert_held();
    return std::ranges::all_of(threads_, [](const auto& t) {
      bql.assert_held();
      return t->finished();
    });
  };
  while (!finished()) shared_->changed.wait(bql);
  bql.unlock();
  threads_.clear();  // joins
  bql.lock();
}

KvmMachine KvmAccel::machine() {
  KvmMachine machine{.vm = *vm_, .vcpus = {}, .clock = clock_};
  for (auto& thread : threads_) machine.vcpus.push_back(&thread->vcpu());
  return machine;
}

Result<std::vector<StateSection>> KvmAccel::save_state() {
  RHEA_CHECK(all_stand_still(), "a vCPU runs while its state is saved");
  const uint64_t clock = paused_clock_ ? *paused_clock_ : TRY(vm_->clock());
  return encode_sections(TRY(read_state(machine(), clock)));
}

class KvmAccel::Prepared final : public PreparedState {
 public:
  Prepared(KvmAccel& accel, KvmState state) : accel_(accel), state_(std::move(state)) {}
  Result<void> apply() override REQUIRES(bql) { return accel_.apply(state_); }

 private:
  KvmAccel& accel_;
  const KvmState state_;
};

Result<std::unique_ptr<PreparedState>> KvmAccel::prepare_state(
    std::span<const StateSection> sections) {
  KvmState state = TRY(decode_sections(sections, threads_.size()));
  const KvmLimits limits = TRY(read_limits(machine()));
  TRY(check_state(limits, clock_, state));
  return std::unique_ptr<PreparedState>(std::make_unique<Prepared>(*this, std::move(state)));
}

Result<void> KvmAccel::apply(const KvmState& state) {
  RHEA_CHECK(all_stand_still(), "a vCPU runs while its state is set");
  TRY(write_state(machine(), state));
  paused_clock_ = state.kvm_clock.nanoseconds;
  return ok();
}

std::string KvmAccel::settings() const {
  std::vector<std::vector<kvm_cpuid_entry2>> shown;
  for (const auto& thread : threads_) shown.push_back(thread->vcpu().cpuid());
  return fmt::format("smp={}x{}x{} {}", smp_.sockets, smp_.cores, smp_.threads,
                     describe_cpuid(shown));
}

std::vector<VcpuInfo> KvmAccel::vcpus() const {
  bql.assert_held();
  std::vector<VcpuInfo> infos;
  for (unsigned i = 0; i < threads_.size(); ++i) {
    infos.push_back(VcpuInfo{.index = i,
                             .thread_id = threads_[i]->thread_id(),
                             .socket = i / smp_.threads / smp_.cores,
                             .core = i / smp_.threads % smp_.cores,
                             .thread = i % smp_.threads});
  }
  return infos;
}

}  // namespace rhea::vmm
