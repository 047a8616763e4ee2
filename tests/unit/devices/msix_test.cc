// MSI-X by itself: table, pending bits, masks, bounds and accesses. [PCI-3.0 6.8.2]
#include "devices/msix.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "memory/address_space.h"
#include "tests/support/size.h"
#include "tests/support/virtio_guest.h"
#include "tests/support/watchdog.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::devices;
using test::FakeMsi;

namespace {

constexpr unsigned kBar = 1;
constexpr uint32_t kMasked = 1;
constexpr uint32_t kEnable = 1 << 15, kFunctionMask = 1 << 14;

/// Says no to some messages, as a host does.
class PickyMsi final : public MsiRouter {
 public:
  class Vector final : public MsiVector {
   public:
    explicit Vector(const std::optional<ErrorKind>& refusal) : refusal_(refusal) {}
    void signal() noexcept override { pending_ = true; }
    Result<void> connect(const MsiMessage&) override REQUIRES(bql) {
      if (refusal_) return fail(*refusal_, "no");
      return ok();
    }
    void disconnect() override REQUIRES(bql) {}
    bool pending() override REQUIRES(bql) { return pending_; }
    void clear() override REQUIRES(bql) { pending_ = false; }

   private:
    const std::optional<ErrorKind>& refusal_;
    bool pending_ = false;
  };
  Result<std::unique_ptr<MsiVector>> add_vector() override REQUIRES(bql) {
    if (left == 0) return fail(ErrorKind::kResource, "no more vectors");
    --left;
    return std::unique_ptr<MsiVector>(std::make_unique<Vector>(refusal));
  }
  std::optional<ErrorKind> refusal;
  unsigned left = 1;
};

/// A table in an address space of its own, at 0.
class Table {
 public:
  // Unchecked: the destructor gives the BQL back.
  explicit Table(unsigned vectors, MsiRouter* router = nullptr) NO_THREAD_SAFETY_ANALYSIS
      : msix(vectors, errors_) {
    bql.lock();
    config_.define_bar(kBar, BarKind::kMemory32, msix.region().size_bytes());
    realized = msix.realize(router != nullptr ? *router : msi).has_value();
    msix.define(config_, kBar);
    root_.add(msix.region(), 0);
    space_.emplace("msix", root_);
    capability = static_cast<uint8_t>(config_.read(0x34, 1));
  }
  // Unchecked: the constructor took the BQL.
  ~Table() NO_THREAD_SAFETY_ANALYSIS {
    msix.unrealize();
    space_.reset();
    root_.remove(msix.region());
    bql.unlock();
  }

  uint64_t load(uint64_t at, unsigned size = 4) { return space_->load({at}, size); }
  void store(uint64_t at, uint64_t value, unsigned size = 4) { space_->store({at}, value, size); }
  void control(uint32_t bits) {
    bql.assert_held();
    config_.write(static_cast<uint8_t>(capability + 2), bits, 2);
    msix.config_written(config_);
  }
  uint32_t config(unsigned offset, unsigned size) {
    bql.assert_held();
    return config_.read(static_cast<uint8_t>(capability + offset), size);
  }
  void mask(unsigned vector, uint32_t bits) { store(16 * uint64_t{vector} + 12, bits); }
  uint64_t pending_at() { return config(8, 4) & ~7U; }
  uint64_t pending(unsigned word = 0) { return load(pending_at() + 4 * uint64_t{word}); }
  FakeMsi::Vector& vector(unsigned index) { return *msi.vectors[index]; }
  uint64_t guest_errors() const { return errors_.count(); }
  void reset() {
    bql.assert_held();
    msix.reset();
  }
  /// What another machine's function has to know.
  struct Saved {
    PciConfig::Bytes config;
    MsixState state;
  };
  Saved save() {
    bql.assert_held();
    return {config_.bytes(), msix.state()};
  }
  Result<void> take_over(const Saved& saved) {
    bql.assert_held();
    TRY(config_.check(saved.config));
    TRY(msix.check_state(saved.state));
    config_.set_bytes(saved.config);
    msix.set_state(saved.state, config_);
    return ok();
  }

 private:
  RcuThread rcu_;
  GuestErrors errors_{"dev"};
  PciConfig config_{PciIdentity{}};
  memory::MemoryRegion root_{"root", uint64_t{1} << 32};
  std::optional<memory::AddressSpace> space_;

 public:
  FakeMsi msi;
  Msix msix;
  uint8_t capability = 0;
  bool realized = false;
};

}  // namespace

TEST_CASE("Msix: after power-on every vector is masked, off, and connected to nothing", "[msix]") {
  for (const unsigned vectors : {1U, 2U, 3U, 31U, 32U, 33U, 256U, 257U, 2048U}) {
    INFO(vectors);
    Table table(vectors);
    CHECK(table.config(0, 1) == Msix::kCapabilityId);
    CHECK(table.config(2, 2) == vectors - 1);
    CHECK(table.config(4, 4) == kBar);  // the table at 0 of its BAR
    CHECK(table.config(8, 4) % 4096 == kBar);
    CHECK(table.pending_at() >= 16 * vectors);
    CHECK(table.pending_at() + 8 * ((vectors + 63) / 64) <= table.msix.region().size_bytes());
    CHECK_FALSE(table.vector(vectors - 1).connected());
    CHECK(table.load(16 * (vectors - 1) + 12) == kMasked);
    CHECK(table.msix.vector(vectors) == nullptr);
    CHECK(table.msix.vector(0xffff) == nullptr);
    CHECK(table.guest_errors() == 0);
  }
}

TEST_CASE("Msix: an entry keeps what can be stored, by 4 bytes and by 8", "[msix]") {
  Table table(3);
  table.store(16, 0xffff'ffff);
  table.store(20, 0x1234'5678);
  table.store(24, 0xffff'ffff);
  table.store(28, 0xffff'fffe);
  CHECK(table.load(16) == 0xffff'fffc);  // dword-aligned
  CHECK(table.load(20) == 0x1234'5678);
  CHECK(table.load(24) == 0xffff'ffff);
  CHECK(table.load(28) == 0);  // the rest is reserved
  CHECK(table.load(16, 8) == 0x1234'5678'ffff'fffc);
  table.store(16, 0x0000'0001'fee0'0004, 8);
  table.store(24, 0x0000'0001'0000'0041, 8);
  CHECK(table.load(16, 8) == 0x0000'0001'fee0'0004);
  CHECK(table.load(24, 8) == 0x0000'0001'0000'0041);
  for (const uint64_t other : {0U, 32U}) {
    CHECK(table.load(other, 8) == 0);
    CHECK(table.load(other + 8, 8) == uint64_t{kMasked} << 32);
  }
  CHECK(table.guest_errors() == 0);
}

TEST_CASE("Msix: accesses of 1 and 2 bytes, and misaligned ones, change nothing", "[msix]") {
  Table table(2);
  table.store(0, 0x1111'1110);
  for (const unsigned size : {1U, 2U}) {
    table.store(0, 0xff, size);
    table.store(12, 0, size);
  }
  for (const uint64_t at : {1U, 2U, 6U, 10U}) table.store(at, 0xffff'ffff);
  table.store(4, ~uint64_t{0}, 8);
  CHECK(table.load(0) == 0x1111'1110);
  CHECK(table.load(4) == 0);
  CHECK(table.load(8) == 0);
  CHECK(table.load(12) == kMasked);
}

TEST_CASE("Msix: behind the last entry there is nothing, and pending bits can not be stored",
          "[msix]") {
  Table table(5);
  for (const uint64_t at : {uint64_t{16 * 5}, uint64_t{4092}, table.pending_at(),
                            table.pending_at() + 4, table.pending_at() + 4092}) {
    const uint64_t errors = table.guest_errors();
    table.store(at, 0xffff'ffff);
    CHECK(table.load(at) == 0);
    CHECK(table.guest_errors() == errors + 1);
  }
}

TEST_CASE("Msix: a vector is connected while all three switches say so", "[msix]") {
  for (const uint32_t control : {0U, kEnable, kFunctionMask, kEnable | kFunctionMask}) {
    for (const uint32_t masked : {0U, kMasked}) {
      INFO(control << " " << masked);
      Table table(2);
      table.store(16, 0xfee0'1000);
      table.store(24, 0x42);
      table.mask(1, masked);
      table.control(control);
      const bool connected = control == kEnable && masked == 0;
      CHECK(table.vector(1).connected() == connected);
      CHECK_FALSE(table.vector(0).connected());
      table.vector(1).signal();
      CHECK(table.vector(1).delivered() == (connected ? 1 : 0));
      CHECK(table.pending() == (connected ? 0 : 2));
      if (connected) {
        CHECK(table.vector(1).message() == MsiMessage{0xfee0'1000, 0x42});
      }
    }
  }
}

TEST_CASE("Msix: what comes while masked is pending, and delivered once when all masks are off",
          "[msix]") {
  Table table(40);
  table.control(kEnable);
  table.mask(33, 0);
  table.vector(33).signal();
  CHECK(table.vector(33).delivered() == 1);
  table.mask(33, kMasked);
  for (int i = 0; i < 3; ++i) table.vector(33).signal();
  CHECK(table.pending(0) == 0);
  CHECK(table.pending(1) == 2);
  CHECK(table.load(table.pending_at(), 8) == uint64_t{1} << 33);
  CHECK(table.vector(33).delivered() == 1);

  table.control(kEnable | kFunctionMask);
  table.mask(33, 0);
  CHECK(table.vector(33).delivered() == 1);  // the function still is
  CHECK(table.pending(1) == 2);
  table.control(0);
  CHECK(table.pending(1) == 2);
  table.control(kEnable);
  CHECK(table.vector(33).delivered() == 2);
  CHECK(table.pending(1) == 0);
  table.mask(33, kMasked);
  table.mask(33, 0);
  CHECK(table.vector(33).delivered() == 2);  // once
}

TEST_CASE("Msix: a message that changes is the next one that is sent", "[msix]") {
  Table table(1);
  table.control(kEnable);
  table.mask(0, 0);
  table.store(0, 0xfee0'2000);
  table.store(4, 7);
  table.store(8, 0x99);
  CHECK(table.vector(0).message() == MsiMessage{0x7'fee0'2000, 0x99});
  table.mask(0, kMasked);
  table.store(8, 0x77);
  CHECK(table.vector(0).message().data == 0x99);  // nobody is told while it is masked
  table.mask(0, 0);
  CHECK(table.vector(0).message().data == 0x77);
}

TEST_CASE("Msix: a reset masks all, forgets what is pending, and does not deliver it", "[msix]") {
  Table table(2);
  table.control(kEnable);
  table.store(16, 0xfee0'1000);
  table.store(24, 0x42);
  table.mask(0, 0);
  table.vector(1).signal();
  CHECK(table.pending() == 2);
  table.reset();
  CHECK_FALSE(table.vector(0).connected());
  CHECK(table.pending() == 0);
  CHECK(table.load(12) == kMasked);
  CHECK(table.load(16, 8) == 0);
  CHECK(table.load(24, 8) == uint64_t{kMasked} << 32);
  bql.assert_held();
  CHECK_FALSE(table.msix.enabled());
  CHECK(table.vector(1).delivered() == 0);
}

TEST_CASE("Msix: a message that is refused stays pending, and counts as the guest's mistake",
          "[msix]") {
  PickyMsi msi;
  Table table(1, &msi);
  REQUIRE(table.realized);
  table.control(kEnable);
  msi.refusal = ErrorKind::kInvalidArgument;
  table.mask(0, 0);
  CHECK(table.guest_errors() == 1);
  table.msix.vector(0)->signal();
  CHECK(table.pending() == 1);
  // A host that can not: nobody's mistake.
  msi.refusal = ErrorKind::kResource;
  table.store(8, 1);
  CHECK(table.guest_errors() == 1);
  CHECK(table.pending() == 1);
  msi.refusal.reset();
  table.store(0, 0xfee0'0000);
  CHECK(table.pending() == 0);  // connected: the host has it now
}

TEST_CASE("Msix: a host without vectors is an error, and the ones it gave are given back",
          "[msix]") {
  PickyMsi msi;
  Table table(2, &msi);
  CHECK_FALSE(table.realized);
  CHECK(table.msix.vector(1) == nullptr);
  table.control(kEnable);
  table.mask(1, 0);  // of a vector that was never made
  CHECK(table.pending() == 0);
}

TEST_CASE("Msix: a storm of masks loses no signal (G29)", "[msix]") {
  const auto rounds = test::sized<uint64_t>(20'000, 2'000'000);
  const test::Watchdog watchdog("a storm of masks", std::chrono::seconds(300));
  Table table(1);
  table.control(kEnable);
  FakeMsi::Vector& vector = table.vector(0);
  std::atomic<bool> over = false;
  std::thread device([&] {
    for (uint64_t i = 0; i < rounds; ++i) {
      const uint64_t before = vector.delivered();
      vector.signal();
      while (vector.delivered() == before) std::this_thread::yield();
      test::Watchdog::feed();
    }
    over = true;
  });
  for (uint32_t i = 0; !over; ++i) {
    if (i % 3 == 0) {
      table.control(kEnable | kFunctionMask);
      table.control(kEnable);
    } else {
      table.mask(0, kMasked);
      table.mask(0, 0);
    }
  }
  device.join();
  CHECK(vector.delivered() == rounds);
  CHECK(table.pending() == 0);
}

// --- Migration --------------------------------------------------------------------------------

TEST_CASE("Msix: vectors are connected after a load as before, and what waited still does",
          "[msix][saved]") {
  Table::Saved saved;
  {
    Table from(3);
    for (unsigned i = 0; i < 3; ++i) {
      from.store(16 * i, 0xfee0'0000 + 0x1000 * i);
      from.store(16 * i + 8, 0x40 + i);
    }
    from.mask(0, 0);
    from.mask(1, 0);
    from.control(kEnable);
    from.vector(0).signal();  // delivered there
    from.vector(2).signal();  // masked: it waits
    saved = from.save();
  }
  Table to(3);
  REQUIRE(to.take_over(saved).has_value());
  CHECK(to.vector(0).connected());
  CHECK(to.vector(1).message() == MsiMessage{.address = 0xfee0'1000, .data = 0x41});
  CHECK_FALSE(to.vector(2).connected());
  CHECK(to.pending() == 1U << 2);
  CHECK(to.vector(0).delivered() == 0);
  to.mask(2, 0);
  CHECK(to.vector(2).delivered() == 1);
  CHECK(to.vector(2).message() == MsiMessage{.address = 0xfee0'2000, .data = 0x42});
  CHECK(to.pending() == 0);
}

TEST_CASE("Msix: what a table had is gone after a load", "[msix][saved]") {
  Table::Saved off;
  {
    Table from(1);
    off = from.save();
  }
  Table to(1);
  to.store(0, 0xfee0'0000);
  to.mask(0, 0);
  to.control(kEnable | kFunctionMask);
  to.vector(0).signal();
  to.control(kEnable);
  REQUIRE(to.vector(0).connected());
  REQUIRE(to.take_over(off).has_value());
  CHECK_FALSE(to.vector(0).connected());
  CHECK(to.load(12) == kMasked);
  CHECK(to.pending() == 0);
}

TEST_CASE("Msix: a function mask holds vectors back after a load, until it goes", "[msix][saved]") {
  Table::Saved saved;
  {
    Table from(1);
    from.mask(0, 0);
    from.control(kEnable | kFunctionMask);
    from.vector(0).signal();
    saved = from.save();
  }
  Table to(1);
  REQUIRE(to.take_over(saved).has_value());
  CHECK(to.pending() == 1);
  to.control(kEnable);
  CHECK(to.vector(0).delivered() == 1);
}

TEST_CASE("Msix: a table of another size, or of misaligned messages, is refused",
          "[msix][saved][sweep]") {
  Table table(2);
  Table::Saved saved = table.save();
  saved.state.entries.resize(3);
  CHECK(table.take_over(saved).error().message() == "field 'entries': 3 vectors, expected 2");
  saved.state.entries.resize(2);
  saved.state.entries[1].address = 0xfee0'0002;
  CHECK(table.take_over(saved).error().message() == "field 'entries': a message to 0xfee00002");
}
