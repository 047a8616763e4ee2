// T004a on a real vCPU: the guest's write to an eject port leads to the end of a device.
//
// KVM_RUN has returned, the exit is dispatched inside a read section with the BQL held, and the
// handler unplugs at once, or has main do it. Neither may wait for readers, and what is unplugged
// must live until the vCPU's section has ended.
#include <atomic>
#include <memory>
#include <optional>
#include <semaphore>

#include "memory/io_handler.h"
#include "memory/listener.h"
#include "tests/kvm/bare_vm.h"
#include "tests/support/size.h"

using namespace rhea;
using namespace rhea::test;

namespace {

constexpr uint64_t kBar = 0x1000'0000;

/// What happened to devices; written by whichever thread ends them.
struct Fate {
  std::atomic<int> destroyed = 0;
  std::atomic<int> destroyed_in_section = 0;
  std::atomic<bool> in_handler = false;
};

/// Follows the address space and shows a region in it, as a device with a vhost part does.
class Device final : public memory::IoHandler, public memory::MemoryListener {
 public:
  explicit Device(Fate& fate) : fate_(fate), region_("bar", 0x1000, *this) {}
  ~Device() override {
    if (fate_.in_handler) ++fate_.destroyed_in_section;
    ++fate_.destroyed;
    magic_ = 0;
  }
  static std::shared_ptr<Device> plug(BareVm& vm, Fate& fate) REQUIRES(bql) {
    auto device = std::make_shared<Device>(fate);
    device->region_.set_owner(device);
    vm.memory_root().add(device->region_, kBar);
    vm.memory().register_listener(device);
    return device;
  }
  void unplug(BareVm& vm) REQUIRES(bql) {
    vm.memory().unregister_listener(*this);
    vm.memory_root().remove(region_);
  }
  bool alive() const { return magic_ == kMagic; }

  void region_add(const memory::Section&) override { ++sections; }
  void region_del(const memory::Section&) override { --sections; }
  uint64_t io_read(uint64_t, unsigned) override { return kMagic; }
  void io_write(uint64_t, uint64_t, unsigned) override {}
  int sections = 0;

 private:
  static constexpr uint32_t kMagic = 0xa11fe;
  Fate& fate_;
  memory::MemoryRegion region_;
  uint32_t magic_ = kMagic;
};

/// One machine, one guest that ejects once in each boot.
class Eject {
 public:
  enum class Mode { kSynchronous, kDeferred };
  explicit Eject(Mode mode) : mode_(mode) {}

  void round() {
    const int before = fate_.destroyed;
    {
      const BqlGuard guard;
      device_ = Device::plug(vm_, fate_);
    }
    vm_.reset_and_run();
    if (mode_ == Mode::kDeferred) {
      latched_.acquire();
      const BqlGuard guard;
      eject();
    }
    done_.wait();  // the instruction behind the write: its section is over
    rcu_drain_callbacks();
    CHECK(fate_.destroyed == before + 1);
    CHECK(fate_.destroyed_in_section == 0);
    CHECK(whole_in_section_);
    CHECK(left_nothing_);
    vm_.pause();
    CHECK(vm_.failures().empty());
  }

 private:
  void handle() {
    bql.assert_held();
    fate_.in_handler = true;
    whole_in_section_ = whole_in_section_ && rcu.in_read_section();
    if (mode_ == Mode::kSynchronous) {
      eject();
    } else {
      latched_.release();
    }
    fate_.in_handler = false;
  }

  void eject() REQUIRES(bql) {
    Device* const gone = device_.get();
    gone->unplug(vm_);
    left_nothing_ = left_nothing_ && gone->sections == 0;
    device_.reset();  // the last reference but those of the readers
    if (rcu.in_read_section()) whole_in_section_ = whole_in_section_ && gone->alive();
  }

  const Mode mode_;
  Fate fate_;
  std::atomic<bool> whole_in_section_ = true;
  std::atomic<bool> left_nothing_ = true;
  std::binary_semaphore latched_{0};
  std::shared_ptr<Device> device_ GUARDED_BY(bql);
  BareVm vm_{{kEject}};
  DonePort done_{vm_};
  Port port_{vm_, kEjectPort, {.write = [this] { handle(); }}};
};

void eject_rounds(Eject::Mode mode) {
  Eject eject(mode);
  const int rounds = sized(10, 200);
  for (int i = 0; i < rounds; ++i) eject.round();
}

}  // namespace

TEST_CASE("T004a: a vCPU's write ejects a device inside its own read section", "[kvm]") {
  NEEDS_KVM();
  eject_rounds(Eject::Mode::kSynchronous);
}

TEST_CASE("T004a: a vCPU's write has main eject a device", "[kvm]") {
  NEEDS_KVM();
  eject_rounds(Eject::Mode::kDeferred);
}
