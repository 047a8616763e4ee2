// T004a: the guest's write to an eject port leads to the end of a device.
//
// The write is dispatched inside a read section with the BQL. Unplugging there, or later on main,
// unregisters the device's listener and removes its region: neither may wait for readers, and the
// device must live until the last of them is out.
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <semaphore>
#include <vector>

#include "memory/address_space.h"
#include "memory/topology.h"
#include "tests/support/size.h"
#include "tests/unit/memory/fixtures.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::memory;
using rhea::test::Machine;

namespace {

// What happened to devices, written by whichever thread destroys them.
struct Fate {
  std::atomic<int> destroyed = 0;
  std::atomic<int> destroyed_in_section = 0;  // of the vCPU or of the bystander
  std::atomic<int> sections = 0;              // open now, of those two
};

// A section that the fate knows of.
class KnownSection {
 public:
  explicit KnownSection(Fate& fate) : fate_(fate) { ++fate_.sections; }
  ~KnownSection() { --fate_.sections; }

 private:
  Fate& fate_;
};

class Device : public IoHandler, public MemoryListener {
 public:
  explicit Device(Fate& fate) : fate_(fate), region_("bar", 0x1000, *this) {}
  ~Device() override {
    if (fate_.sections != 0) ++fate_.destroyed_in_section;
    ++fate_.destroyed;
    alive_ = 0xdd;
  }
  static std::shared_ptr<Device> plug(Fate& fate, MemoryRegion& root, AddressSpace& space)
      REQUIRES(bql) {
    auto device = std::make_shared<Device>(fate);
    device->region_.set_owner(device);
    root.add(device->region_, 0x1000);
    space.register_listener(device);
    return device;
  }
  void unplug(MemoryRegion& root, AddressSpace& space) REQUIRES(bql) {
    space.unregister_listener(*this);
    root.remove(region_);
  }
  bool alive() const { return alive_ == 1; }

  uint64_t io_read(uint64_t, unsigned) override { return alive() ? 0xa5 : 0xdd; }
  void io_write(uint64_t, uint64_t, unsigned) override {}

 private:
  Fate& fate_;
  MemoryRegion region_;
  int alive_ = 1;
};

enum class Mode { kSynchronous, kDeferred };

// The eject port: unplugs at once, or latches and leaves it to main.
class EjectPort : public IoHandler {
 public:
  EjectPort(Mode mode, Machine& machine) : mode_(mode), machine_(machine) {}

  uint64_t io_read(uint64_t, unsigned) override { return 0; }
  void io_write(uint64_t, uint64_t, unsigned) override {
    bql.assert_held();
    in_section &= rcu.in_read_section();
    if (mode_ == Mode::kSynchronous) {
      eject();
    } else {
      pending = true;
    }
  }
  void eject() REQUIRES(bql) {
    Device* gone = device.get();
    gone->unplug(machine_.root(), machine_.space());
    device.reset();  // the last reference but those of the readers
    ejected_alive &= !rcu.in_read_section() || gone->alive();
  }

  std::shared_ptr<Device> device GUARDED_BY(bql);
  bool pending GUARDED_BY(bql) = false;
  bool in_section = true;
  bool ejected_alive = true;  // within the section the device is still whole

 private:
  const Mode mode_;
  Machine& machine_;
};

void eject_rounds(Mode mode, int rounds) {
  ::alarm(120);
  Machine m;
  Fate fate;
  EjectPort port(mode, m);
  MemoryRegion eject("eject", 4, port);
  m.add(eject, 0);
  for (int i = 0; i < rounds; ++i) {
    {
      BqlGuard guard;
      port.device = Device::plug(fate, m.root(), m.space());
    }
    // A bystander stands in a section over all of it, holding what it found.
    std::binary_semaphore entered(0), leave(0);
    Thread bystander = MUST(Thread::start("bystander", [&] {
      RcuReadGuard guard;
      KnownSection known(fate);
      entered.release();
      leave.acquire();
    }));
    entered.acquire();
    MUST(Thread::start("vcpu", [&] {
      RcuReadGuard guard;
      KnownSection known(fate);
      m.space().store(GuestAddr{0}, 1, 4);
    })).join();
    {
      BqlGuard guard;
      if (std::exchange(port.pending, false)) port.eject();
      REQUIRE(port.device == nullptr);
    }
    CHECK(fate.destroyed == i);
    CHECK(m.space().load(GuestAddr{0x1000}, 1) == 0xff);
    leave.release();
    bystander.join();
    rcu_drain_callbacks();
    CHECK(fate.destroyed == i + 1);
  }
  CHECK(fate.destroyed_in_section == 0);
  CHECK(port.in_section);
  CHECK(port.ejected_alive);
  m.remove(eject);
  ::alarm(0);
}

}  // namespace

TEST_CASE("T004a: a device ejected inside the read section of its port write is freed after it",
          "[memory]") {
  eject_rounds(Mode::kSynchronous, test::sized(20, 2'000));
}

TEST_CASE("T004a: a device ejected later by main is freed after the readers", "[memory]") {
  eject_rounds(Mode::kDeferred, test::sized(20, 2'000));
}

// No listener and no other reference: only the view that dispatched the access holds the device.
TEST_CASE("T004a: a device that removes itself in its own handler lives until the handler is out",
          "[memory]") {
  class Suicidal : public IoHandler {
   public:
    explicit Suicidal(MemoryRegion& root, std::atomic<int>& log) : root_(root), log_(log) {}
    ~Suicidal() override { log_ = log_ * 10 + 2; }
    uint64_t io_read(uint64_t, unsigned) override { return 0; }
    void io_write(uint64_t, uint64_t, unsigned) override {
      bql.assert_held();
      root_.remove(region);
      self.reset();
      log_ = log_ * 10 + 1;  // the device's own member, after its last owner let go
    }
    MemoryRegion region{"suicidal", 4, *this};
    std::shared_ptr<Suicidal> self;

   private:
    MemoryRegion& root_;
    std::atomic<int>& log_;
  };
  std::atomic<int> log = 0;
  Machine m;
  {
    BqlGuard guard;
    auto device = std::make_shared<Suicidal>(m.root(), log);
    device->region.set_owner(device);
    m.root().add(device->region, 0);
    device->self = device;
  }
  m.space().store(GuestAddr{0}, 1, 4);
  rcu_drain_callbacks();
  CHECK(log == 12);
}
