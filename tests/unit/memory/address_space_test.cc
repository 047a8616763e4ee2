#include "memory/address_space.h"

#include <array>
#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "memory/flat_view.h"
#include "memory/ram_block.h"
#include "memory/topology.h"
#include "tests/unit/memory/fixtures.h"
#include "util/fd.h"
#include "util/rcu.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::memory;
using rhea::test::Machine;
using rhea::test::Recorder;

TEST_CASE("AddressSpace: RAM is read and written, and marked dirty only while somebody logs",
          "[memory]") {
  Machine m;
  MemoryRegion ram("ram", test::make_ram(0x10000));
  m.add(ram, 0x1000);
  RamBlock& block = *m.space().pin()->ranges()[0].ram;

  m.space().store(GuestAddr{0x1008}, 0x1122334455667788, 8);
  CHECK(m.space().load(GuestAddr{0x100a}, 2) == 0x5566);
  CHECK(block.dirty().count(DirtyClient::kMigration) == 0);

  {
    BqlGuard guard;
    MUST(topology.start_dirty_log(DirtyClient::kMigration));
  }
  m.space().store(GuestAddr{0x2ffe}, 0xaabbccdd, 4);
  CHECK(block.dirty().count(DirtyClient::kMigration) == 2);
  CHECK(block.dirty().test(DirtyClient::kMigration, 1));
  CHECK(block.dirty().test(DirtyClient::kMigration, 2));
  {
    BqlGuard guard;
    topology.stop_dirty_log(DirtyClient::kMigration);
  }
  m.space().store(GuestAddr{0x8000}, 1, 1);
  CHECK(block.dirty().count(DirtyClient::kMigration) == 2);
  m.remove(ram);
}

TEST_CASE("AddressSpace: an unassigned address reads all-ones and drops writes", "[memory]") {
  Machine m;
  CHECK(m.space().load(GuestAddr{0x10}, 1) == 0xff);
  CHECK(m.space().load(GuestAddr{0x10}, 4) == 0xffffffff);
  CHECK(m.space().load(GuestAddr{~uint64_t{0} - 3}, 8) == ~uint64_t{0});
  m.space().store(GuestAddr{0x10}, 1, 4);
  std::array<std::byte, 20> data{};
  CHECK(m.space().read(GuestAddr{0x10}, data) == AccessResult::kUnassigned);
  CHECK(data[19] == std::byte{0xff});
}

TEST_CASE("AddressSpace: ROM is read, a guest's write to it is refused", "[memory]") {
  Machine m;
  auto block = test::make_ram(0x1000);
  block->host()[4] = std::byte{0x5a};
  MemoryRegion rom("rom", block, MemoryRegion::RamMode::kReadOnly);
  m.add(rom, 0);
  CHECK(m.space().load(GuestAddr{4}, 1) == 0x5a);
  const std::array data{std::byte{1}};
  CHECK(m.space().write(GuestAddr{4}, data) == AccessResult::kRefused);
  CHECK_FALSE(m.space().write_ram(GuestAddr{4}, data).has_value());
  CHECK(m.space().load(GuestAddr{4}, 1) == 0x5a);
  m.remove(rom);
}

TEST_CASE("AddressSpace: an access over two regions reaches each with its part", "[memory]") {
  Machine m;
  Recorder low(0x11), high(0x22);
  MemoryRegion a("a", 0x10, low);
  MemoryRegion b("b", 0x10, high);
  MemoryRegion ram("ram", test::make_ram(0x1000));
  m.add(a, 0x0);
  m.add(b, 0x10);
  m.add(ram, 0x20);
  CHECK(m.space().load(GuestAddr{0xe}, 4) == 0x22221111);
  CHECK(low.calls == std::vector<Recorder::Call>{{'r', 0xe, 0, 2}});
  CHECK(high.calls == std::vector<Recorder::Call>{{'r', 0, 0, 2}});
  low.calls.clear();
  high.calls.clear();
  m.space().store(GuestAddr{0x1e}, 0x44332211, 4);
  CHECK(high.calls == std::vector<Recorder::Call>{{'w', 0xe, 0x2211, 2}});
  CHECK(m.space().load(GuestAddr{0x20}, 2) == 0x4433);
  m.remove(a);
  m.remove(b);
  m.remove(ram);
}

TEST_CASE("AddressSpace: read_ram and write_ram touch RAM only, all or nothing", "[memory]") {
  Machine m;
  Recorder device(0);
  MemoryRegion ram("ram", test::make_ram(0x1000));
  MemoryRegion io("io", 0x10, device);
  m.add(ram, 0);
  m.add(io, 0x1000);
  const uint64_t value = 0x1234;
  CHECK(m.space().write_ram(GuestAddr{0x10}, value).has_value());
  CHECK(MUST(m.space().read_ram<uint64_t>(GuestAddr{0x10})) == value);
  const auto refused = m.space().write_ram(GuestAddr{0xffc}, value);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind() == ErrorKind::kInvalidArgument);
  CHECK(refused.error().message() == "guest address 0x1000 is not RAM");
  CHECK(m.space().load(GuestAddr{0xffc}, 4) == 0);
  CHECK_FALSE(m.space().read_ram<uint64_t>(GuestAddr{~uint64_t{0} - 3}).has_value());
  CHECK(device.calls.empty());
  m.remove(ram);
  m.remove(io);
}

TEST_CASE("AddressSpace: a store that matches a doorbell signals its eventfd instead", "[memory]") {
  Machine m;
  Recorder device(0);
  MemoryRegion io("io", 0x100, device);
  m.add(io, 0x1000);
  const Fd any = MUST(make_eventfd()), seven = MUST(make_eventfd());
  const MemoryRegion::Doorbell on_any{.offset = 8, .size_bytes = 0, .match = {}, .fd = any.get()};
  const MemoryRegion::Doorbell on_seven{
      .offset = 0x10, .size_bytes = 2, .match = 7, .fd = seven.get()};
  {
    BqlGuard guard;
    MUST(io.add_doorbell(on_any));
    MUST(io.add_doorbell(on_seven));
    CHECK(io.add_doorbell(on_any).error().kind() == ErrorKind::kExists);
  }
  m.space().store(GuestAddr{0x1008}, 99, 4);
  CHECK(clear_eventfd(any.get()));
  m.space().store(GuestAddr{0x1010}, 7, 2);
  CHECK(clear_eventfd(seven.get()));
  CHECK(device.calls.empty());

  m.space().store(GuestAddr{0x1010}, 8, 2);
  m.space().store(GuestAddr{0x1010}, 7, 4);
  m.space().store(GuestAddr{0x1009}, 1, 1);
  CHECK_FALSE(clear_eventfd(seven.get()));
  CHECK_FALSE(clear_eventfd(any.get()));
  CHECK(device.calls.size() == 3);

  {
    BqlGuard guard;
    io.remove_doorbell(on_any);
  }
  m.space().store(GuestAddr{0x1008}, 99, 4);
  CHECK_FALSE(clear_eventfd(any.get()));
  CHECK(device.calls.size() == 4);
  m.remove(io);
}
