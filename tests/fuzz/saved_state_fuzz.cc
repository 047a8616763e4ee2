// The saved states of a machine's devices, and of what KVM keeps of it, as a stranger may send
// them. The input chooses a state and what is wrong with it: some of its numbers, its structure, or
// everything. Each is refused, and changes nothing, or is one that the device can be in: it takes
// it, can be saved again, and takes that.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "devices/scsi/scsi_cd.h"
#include "devices/scsi/scsi_hd.h"
#include "devices/virtio/virtio_scsi.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/pci_world.h"
#include "util/options.h"
#include "util/saved_state.h"
#include "vmm/kvm/kvm_state.h"

namespace rhea::test {
namespace {

using Bytes = std::vector<uint8_t>;
using devices::Device;

constexpr size_t kMostBytes = 64 << 10;
constexpr std::array<uint64_t, 16> kValues = {
    0,      1,      2,       3,       0x7f,        0x80,        0xff,       0x100,
    0xffff, 0x8000, 0x10000, 1 << 20, 0x7fff'ffff, 0xffff'ffff, 1ULL << 63, ~0ULL};

/// Where a number stands in an encoded state.
struct Number {
  size_t offset;
  size_t size;
};

/// The numbers of a well-formed state.
class Numbers {
 public:
  explicit Numbers(std::span<const uint8_t> bytes) : bytes_(bytes) { fields(bytes.size()); }
  std::vector<Number> take() && { return std::move(found_); }

 private:
  size_t length() {
    size_t value = 0;
    for (size_t i = 4; i-- > 0;) value = value << 8 | bytes_[at_ + i];
    at_ += 4;
    return value;
  }
  void fields(size_t end) {
    while (at_ < end) field();
  }
  void field() {
    at_ += 1 + bytes_[at_];
    const auto type = static_cast<StateType>(bytes_[at_++]);
    if (const size_t size = size_of_number(type); size != 0) {
      found_.push_back({at_, size});
      at_ += size;
      return;
    }
    const size_t size = length();
    const size_t end = at_ + size;
    if (type == StateType::kStruct) fields(end);
    if (type == StateType::kList) list();
    if (type == StateType::kBytes && size != 0) found_.push_back({at_, std::min<size_t>(size, 8)});
    at_ = end;
  }
  void list() {
    for (size_t left = length(); left > 0; --left) {
      const size_t size = length();
      fields(at_ + size);
    }
  }

  const std::span<const uint8_t> bytes_;
  size_t at_ = 0;
  std::vector<Number> found_;
};

void change_numbers(Input& input, Bytes& bytes) {
  const std::vector<Number> numbers = Numbers(bytes).take();
  for (unsigned left = 1 + input.byte() % 4; left > 0 && !numbers.empty(); --left) {
    const size_t low = input.byte(), high = input.byte();
    const Number& number = numbers[(low | high << 8) % numbers.size()];
    const uint8_t how = input.byte();
    uint64_t value = kValues[how % kValues.size()];
    if (how >= 0x80) value = uint64_t{input.word()} << (how & 0x3f);
    for (size_t i = 0; i < number.size; ++i) {
      bytes[number.offset + i] = static_cast<uint8_t>(value >> (8 * i));
    }
  }
}

void change_structure(Input& input, Bytes& bytes) {
  const size_t at = input.word() % (bytes.size() + 1);
  const size_t count = std::min<size_t>(input.byte(), bytes.size() - at);
  const auto from = bytes.begin() + static_cast<ptrdiff_t>(at);
  const auto to = from + static_cast<ptrdiff_t>(count);
  switch (input.byte() % 4) {
    case 0:
      bytes.erase(from, to);
      return;
    case 1: {
      const Bytes twice(from, to);
      bytes.insert(from, twice.begin(), twice.end());
      return;
    }
    case 2:
      if (at < bytes.size()) bytes[at] = input.byte();
      return;
    default:
      bytes.resize(at);
  }
}

/// A state like `good`, or not.
Bytes spoil(Input& input, const Bytes& good) {
  Bytes bytes = good;
  switch (input.byte() % 4) {
    case 0:
    case 1:
      change_numbers(input, bytes);
      break;
    case 2:
      change_structure(input, bytes);
      break;
    default:
      bytes.clear();
      while (!input.empty() && bytes.size() < kMostBytes) bytes.push_back(input.byte());
  }
  return bytes;
}

/// Whatever the bytes are: neither a tool nor the schema has anything to do with it.
void print(const Bytes& bytes, bool well_formed) {
  const auto text = state_to_json(bytes);
  RHEA_CHECK(text.has_value() || !well_formed, "a state that can be read can not be printed");
}

struct NoErrors final : devices::IoErrorSink {
  void io_error(const devices::IoError&) override {}
};
struct NoTray final : devices::ScsiTraySink {
  void tray_moved(const std::string&, devices::ScsiTrayPosition) override {}
};

/// The machine of PciWorld, and a SCSI adapter with a disk and a drive. It stands still.
/// Thread: main, with the BQL.
class Machine {
 public:
  Machine() {
    bql.assert_held();  // the world has taken it
    add_adapter();
    for (const auto& device : world_.machine().devices()) devices_.push_back(device.get());
    for (const auto& device : world_.plugged()) devices_.push_back(device.get());
    std::erase_if(devices_, [](Device* device) { return device->state_format().kind.empty(); });
    for (devices::VirtioDevice* device : virtio()) {
      device->machine_stopped();
      while (device->busy()) world_.turn();
    }
    for (Device* device : devices_) good_.push_back(device->save());
  }

  ~Machine() {
    bql.assert_held();  // the world gives it back
    for (const auto& unit : adapter_->bus().units()) {
      MUST(adapter_->bus().remove(*unit));
      unit->unrealize();
    }
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  void run(Input& input) REQUIRES(bql) {
    const size_t index = input.byte() % devices_.size();
    Device& device = *devices_[index];
    const Bytes bytes = spoil(input, good_[index]);
    {
      auto taken = device.prepare_load(bytes);
      print(bytes, taken.has_value());
      if (!taken) {
        RHEA_CHECK(device.save() == good_[index], "{} has changed", device.id());
        return;
      }
      (*taken)();
    }
    const Bytes again = device.save();
    const auto taken = device.prepare_load(again);
    RHEA_CHECK(taken.has_value(), "{} refuses what it saved: {}", device.id(),
               taken ? "" : taken.error().message());
    auto back = MUST(device.prepare_load(good_[index]));
    back();
    world_.turn();
    const Bytes now = device.save();
    RHEA_CHECK(now == good_[index], "{} does not go back", device.id());
  }

 private:
  void add_adapter() REQUIRES(bql) {
    for (const char* node : {"hd", "cd"}) {
      MUST(world_.graph().add(
          world_.loop().gs(),
          MUST(parse_options("driver=null-co,size=1M,node-name=" + std::string(node)))));
    }
    auto adapter = std::make_unique<devices::VirtioScsi>(
        "scsi", devices::VirtioDevice::Host{world_.loop(), memory::GuestMemory(memory())},
        devices::VirtioScsiConfig{.bus_name = "scsi.0", .queues = {&world_.loop().block()}});
    adapter_ = adapter.get();
    world_.plug(
        std::make_shared<devices::VirtioPci>("scsi", std::move(adapter), msi_, world_.loop()), 5);
    devices::ScsiHdConfig hd;
    hd.node = "hd";
    devices::ScsiCdConfig cd;
    cd.node = "cd";
    add(std::make_shared<devices::ScsiHd>("hd", devices::ScsiAddress{.target = 0}, world_.graph(),
                                          hd, errors_));
    add(std::make_shared<devices::ScsiCd>("cd", devices::ScsiAddress{.target = 1}, world_.graph(),
                                          cd, errors_, tray_));
  }
  void add(const std::shared_ptr<devices::ScsiUnit>& unit) REQUIRES(bql) {
    MUST(unit->realize());
    MUST(adapter_->bus().add(unit));
  }
  memory::AddressSpace& memory() { return world_.machine().memory(); }
  std::vector<devices::VirtioDevice*> virtio() {
    std::vector<devices::VirtioDevice*> found;
    for (Device* device : devices_) {
      if (auto* pci = dynamic_cast<devices::VirtioPci*>(device)) found.push_back(&pci->device());
    }
    return found;
  }

  NoErrors errors_;
  NoTray tray_;
  FakeMsi msi_{FakeMsi::Accepts::kLocalApics};
  PciWorld world_{PciWorld::Serials{nullptr}};
  devices::VirtioScsi* adapter_ = nullptr;
  std::vector<Device*> devices_;
  std::vector<Bytes> good_;  // of each
};

/// Of two vCPUs; as KVM would say and give it.
class KvmSide {
 public:
  KvmSide() {
    constexpr std::array<uint32_t, 4> kMsrs = {0x10, 0x3b, 0x6e0, 0xc000'0082};
    for (uint32_t i = 0; i < kVcpus; ++i) {
      kvm_cpuid_entry2 leaf{};
      leaf.function = 1;
      leaf.ebx = i << 24;  // the APIC id
      vmm::VcpuLimits limits;
      limits.cpuid = {leaf};
      limits.tsc_khz = 2'500'000;
      limits.has_xcrs = true;
      limits.most_xsave_bytes = kMostXsave;
      limits.xfeatures = 0xe7;
      limits.msrs = {kMsrs.begin(), kMsrs.end()};
      limits_.vcpus.push_back(limits);
      vmm::VcpuState vcpu;
      vcpu.cpuid.push_back({.function = leaf.function, .ebx = leaf.ebx});
      vcpu.tsc_khz = limits.tsc_khz;
      vcpu.xsave.resize(vmm::kLeastXsaveBytes);
      vcpu.xsave[512] = 7;  // XSTATE_BV
      vcpu.xcrs = {{.index = 0, .value = 7}};
      for (const uint32_t msr : kMsrs) vcpu.msrs.push_back({.index = msr, .value = msr});
      state_.vcpus.push_back(vcpu);
    }
    limits_.ioapic_base = state_.irqchip.ioapic.base_address = 0xfec0'0000;
    good_ = vmm::encode_sections(state_);
  }

  void run(Input& input) const {
    std::vector<vmm::StateSection> sections = good_;
    if ((input.byte() & 7) == 0) std::swap(sections[input.byte() % sections.size()], sections[0]);
    if ((input.byte() & 7) == 0) sections.push_back(sections[input.byte() % sections.size()]);
    vmm::StateSection& section = sections[input.byte() % sections.size()];
    section.bytes = spoil(input, section.bytes);
    const auto state = vmm::decode_sections(sections, kVcpus);
    print(section.bytes, state.has_value());
    if (!state) return;
    for (const vmm::StateSection& again : vmm::encode_sections(*state)) {
      const auto same = [&](const auto& s) { return s.name == again.name; };
      RHEA_CHECK(std::ranges::find_if(sections, same)->bytes == again.bytes, "{}", again.name);
    }
    const auto checked = vmm::check_state(limits_, clock_, *state);
    if (!checked) return;
    for (const vmm::VcpuState& vcpu : state->vcpus) {
      RHEA_CHECK(vcpu.xsave.size() <= kMostXsave && vcpu.msrs.size() <= 4 && vcpu.mp_state < 5);
    }
  }

 private:
  static constexpr uint32_t kVcpus = 2;
  static constexpr size_t kMostXsave = 8192;
  const ManualClock host_;
  const vmm::VmClock clock_{host_, vmm::VmClock::Mode::kStepped};
  vmm::KvmLimits limits_;
  vmm::KvmState state_;
  std::vector<vmm::StateSection> good_;
};

}  // namespace
}  // namespace rhea::test

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static rhea::test::Machine machine;
  static const rhea::test::KvmSide kvm;
  rhea::bql.assert_held();
  rhea::test::Input input({data, size});
  if (input.byte() % 3 == 0) {
    kvm.run(input);
  } else {
    machine.run(input);
  }
  return 0;
}
