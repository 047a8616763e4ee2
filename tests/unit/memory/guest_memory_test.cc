#include "memory/guest_memory.h"

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <optional>

#include "memory/topology.h"
#include "tests/unit/memory/fixtures.h"

using namespace rhea;
using namespace rhea::memory;
using rhea::test::Machine;
using rhea::test::Recorder;
using Access = GuestMemory::Access;

TEST_CASE("GuestMemory: a range over two RAM blocks maps to two pieces", "[memory]") {
  Machine m;
  auto low = test::make_ram(0x1000), high = test::make_ram(0x1000);
  MemoryRegion a("a", low), b("b", high);
  m.add(a, 0);
  m.add(b, 0x1000);
  const auto pin = GuestMemory(m.space()).pin();
  std::array<iovec, 4> out{};
  REQUIRE(MUST(pin.map(GuestAddr{0xf00}, 0x200, Access::kWrite, out)) == 2);
  CHECK(out[0].iov_base == low->host() + 0xf00);
  CHECK(out[0].iov_len == 0x100);
  CHECK(out[1].iov_base == high->host());
  CHECK(out[1].iov_len == 0x100);
  CHECK(pin.map(GuestAddr{0xf00}, 0x200, Access::kRead, std::span(out).first(1)).error().kind() ==
        ErrorKind::kResource);
  CHECK(MUST(pin.map(GuestAddr{0xf00}, 0, Access::kRead, out)) == 0);
  m.remove(a);
  m.remove(b);
}

TEST_CASE("GuestMemory: what is not RAM, or may not be written, is refused and not touched",
          "[memory]") {
  Machine m;
  Recorder device(0);
  MemoryRegion ram("ram", test::make_ram(0x1000));
  MemoryRegion rom("rom", test::make_ram(0x1000), MemoryRegion::RamMode::kReadOnly);
  MemoryRegion io("io", 0x1000, device);
  m.add(ram, 0);
  m.add(rom, 0x1000);
  m.add(io, 0x2000);
  const GuestMemory memory(m.space());
  const auto pin = memory.pin();
  std::array<iovec, 4> out{};
  CHECK(pin.map(GuestAddr{0x800}, 0x1000, Access::kRead, out).has_value());
  CHECK(pin.map(GuestAddr{0x800}, 0x1000, Access::kWrite, out).error().message() ==
        "guest address 0x1000 is read-only");
  CHECK(pin.map(GuestAddr{0x1800}, 0x1000, Access::kRead, out).error().message() ==
        "guest address 0x2000 is not RAM");
  CHECK_FALSE(pin.map(GuestAddr{~uint64_t{0}}, 2, Access::kRead, out).has_value());
  CHECK_FALSE(memory.write<uint32_t>(GuestAddr{0xffe}, 0x12345678).has_value());
  CHECK_FALSE(pin.write<uint32_t>(GuestAddr{0xffe}, 0x12345678).has_value());
  CHECK(MUST(memory.read<uint16_t>(GuestAddr{0xffe})) == 0);
  CHECK(device.calls.empty());
  m.remove(ram);
  m.remove(rom);
  m.remove(io);
}

TEST_CASE("GuestMemory: a pinned picture stays whole after its RAM was unplugged", "[memory]") {
  Machine m;
  std::optional<MemoryRegion> ram(std::in_place, "ram", test::make_ram(0x1000));
  m.add(*ram, 0);
  const GuestMemory memory(m.space());
  const auto pin = memory.pin();
  std::array<iovec, 1> out{};
  REQUIRE(MUST(pin.map(GuestAddr{0}, 0x1000, Access::kWrite, out)) == 1);
  m.remove(*ram);
  ram.reset();
  rcu_drain_callbacks();
  std::memset(out[0].iov_base, 0x77, out[0].iov_len);  // faults if the block is gone
  pin.written(GuestAddr{0}, 0x1000);
  CHECK(MUST(pin.read<uint16_t>(GuestAddr{0x10})) == 0x7777);
  CHECK_FALSE(memory.read<uint16_t>(GuestAddr{0x10}).has_value());
}

TEST_CASE("GuestMemory: written() marks exactly the pages that were mapped", "[memory]") {
  Machine m;
  auto block = test::make_ram(0x8000);
  MemoryRegion ram("ram", block);
  m.add(ram, 0x10000);
  {
    BqlGuard guard;
    MUST(topology.start_dirty_log(DirtyClient::kMigration));
  }
  const auto pin = GuestMemory(m.space()).pin();
  pin.written(GuestAddr{0x11ffc}, 8);
  CHECK(block->dirty().test_and_clear_word(DirtyClient::kMigration, 0) == 0b110);
  MUST(pin.write<uint8_t>(GuestAddr{0x14000}, 1));
  CHECK(block->dirty().test_and_clear_word(DirtyClient::kMigration, 0) == 0b10000);
  {
    BqlGuard guard;
    topology.stop_dirty_log(DirtyClient::kMigration);
  }
  m.remove(ram);
}
