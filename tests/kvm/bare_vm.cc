#include "tests/kvm/bare_vm.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

#include "memory/ram_block.h"
#include "util/check.h"
#include "vmm/boot/boot_memory.h"
#include "vmm/boot/cpu_setup.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::test {
namespace {

constexpr uint64_t kRamSize = 2 << 20;
constexpr uint64_t kGuestSpace = uint64_t{1} << 46;
constexpr uint64_t kIoSpace = 0x1'0000;
constexpr size_t kData = 0x8000;
constexpr uint64_t kPortSize = 4;

std::unique_ptr<vmm::KvmAccel> make_accel(vmm::VmClock& clock,
                                          const vmm::DirtyTrackingConfig& dirty) {
  const BqlGuard guard;
  return MUST(vmm::KvmAccel::create(clock, dirty));
}

vmm::SmpConfig smp_of(size_t cpus) {
  const auto count = static_cast<unsigned>(cpus);
  return {.cpus = count, .max_cpus = count, .sockets = 1, .cores = count, .threads = 1};
}

}  // namespace

std::shared_ptr<memory::RamBlock> make_ram(uint64_t size_bytes) {
  memory::RamBlockConfig config;
  config.name = "test";
  config.size_bytes = size_bytes;
  return MUST(memory::RamBlock::create(config));
}

BareVm::BareVm(const std::vector<GuestCode>& codes, const BareVmOptions& options)
    : codes_(codes),
      ram_block_(options.ram != nullptr ? options.ram : make_ram(kRamSize)),
      clock_(options.clock != nullptr ? *options.clock : host_clock_,
             vmm::VmClock::Mode::kFollowsHost),
      accel_(make_accel(clock_, options.dirty)),
      memory_root_("memory", kGuestSpace),
      io_root_("io", kIoSpace),
      ram_("ram", ram_block_) {
  const BqlGuard guard;
  memory_root_.add(ram_, 0);
  memory_.emplace("memory", memory_root_);
  io_.emplace("io", io_root_);
  MUST(accel_->attach(*memory_, *io_));
  MUST(accel_->create_vcpus(smp_of(codes.size()), *this));
}

BareVm::~BareVm() {
  {
    const BqlGuard guard;
    accel_->shut_down();
    memory_.reset();
    io_.reset();
    memory_root_.remove(ram_);
  }
  rcu_drain_callbacks();
}

std::atomic_ref<uint32_t> BareVm::word(size_t index) {
  return std::atomic_ref(reinterpret_cast<uint32_t*>(ram_block_->host() + kData)[index]);
}

void BareVm::reset() {
  const BqlGuard guard;
  vmm::AddressSpaceMemory ram(*memory_);
  vmm::BootState boot = MUST(vmm::set_up_long_mode(ram));
  for (size_t i = 0; i < codes_.size(); ++i) {
    if (codes_[i].begin == nullptr) continue;
    MUST(ram.write(memory::GuestAddr{code_base(i)}, codes_[i].bytes()));
  }
  boot.rip = code_base(0);
  MUST(accel_->reset(boot));
  for (size_t i = 1; i < codes_.size(); ++i) {
    if (codes_[i].begin != nullptr) enter_secondary(i, boot);
  }
}

/// A secondary waits for INIT after a reset; one with code starts at once, without the guest's
/// doing.
void BareVm::enter_secondary(size_t index, vmm::BootState boot) {
  boot.rip = code_base(index);
  MUST(vcpu(index).vcpu().set_boot_registers(boot));
  kvm_mp_state state{.mp_state = KVM_MP_STATE_RUNNABLE};
  MUST(KVM_IOCTL(vcpu(index).vcpu().fd(), KVM_SET_MP_STATE, &state));
}

void BareVm::pause() {
  const BqlGuard guard;
  accel_->pause_vcpus();
}

void BareVm::resume() {
  const BqlGuard guard;
  accel_->resume_vcpus();
}

std::vector<vmm::StateSection> BareVm::save() {
  const BqlGuard guard;
  accel_->pause_vcpus();
  return MUST(accel_->save_state());
}

Result<void> BareVm::load(std::span<const vmm::StateSection> sections) {
  const BqlGuard guard;
  const auto state = TRY(accel_->prepare_state(sections));
  return state->apply();
}

std::string BareVm::failures() {
  const BqlGuard guard;
  return failures_;
}

void BareVm::triple_fault() {
  bql.assert_held();
  failures_ += "triple fault\n";
}

void BareVm::internal_error(std::string report) {
  bql.assert_held();
  failures_ += report;
}

Port::Port(BareVm& vm, uint64_t address, Handlers handlers, memory::IoLocking locking)
    : vm_(vm), handlers_(std::move(handlers)), region_("port", kPortSize, *this, {}, locking) {
  const BqlGuard guard;
  vm_.io_root().add(region_, address);
}

Port::~Port() {
  {
    const BqlGuard guard;
    vm_.io_root().remove(region_);
  }
  rcu_drain_callbacks();  // a reader of the older view may still be in a lock-free handler
}

EventFd::EventFd() : fd_(::eventfd(0, EFD_CLOEXEC)) { RHEA_CHECK(fd_.get() >= 0); }

uint64_t EventFd::take() {
  uint64_t count = 0;
  RHEA_CHECK(::read(fd(), &count, sizeof count) == sizeof count);
  return count;
}

uint64_t EventFd::take_now() {
  pollfd ready{.fd = fd(), .events = POLLIN, .revents = 0};
  return ::poll(&ready, 1, 0) == 1 ? take() : 0;
}

void EventFd::signal() {
  const uint64_t one = 1;
  RHEA_CHECK(::write(fd(), &one, sizeof one) == sizeof one);
}

}  // namespace rhea::test
