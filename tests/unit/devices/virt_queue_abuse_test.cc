// Every rule of the split ring that a driver can break, one by one: the queue breaks, and nothing
// else does.
#include <array>
#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <vector>

#include "devices/virtio/virt_queue.h"
#include "tests/unit/devices/virt_queue_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;
using Features = VirtQueue::Features;

namespace {

struct Abuse {
  const char* what;
  std::function<void(Ring&)> offer;
  const char* reason;
  Features features = Features::kBoth;
};

using R = RingMemory;
const std::vector<Abuse> kAbuses{
    {"more is available than the queue holds", [](Ring& r) { r.set_available_index(9); },
     "more is available than the queue holds"},
    {"the index goes back", [](Ring& r) { r.set_available_index(0xffff); },
     "more is available than the queue holds"},
    {"a head one beyond the table", [](Ring& r) { r.offer(8); },
     "the head of a chain is outside the table"},
    {"the highest head", [](Ring& r) { r.offer(0xffff); },
     "the head of a chain is outside the table"},
    {"a next one beyond the table",
     [](Ring& r) {
       r.describe(0, Ring::kData, 1, kNext, 8);
       r.offer(0);
     },
     "a descriptor is outside its table"},
    {"the highest next",
     [](Ring& r) {
       r.describe(0, Ring::kData, 1, kNext, 0xffff);
       r.offer(0);
     },
     "a descriptor is outside its table"},
    {"a descriptor that is its own next",
     [](Ring& r) {
       r.describe(0, Ring::kData, 1, kNext, 0);
       r.offer(0);
     },
     "a chain is longer than the queue, or a loop"},
    {"a loop of all descriptors",
     [](Ring& r) {
       for (uint16_t i = 0; i < 8; ++i) {
         r.describe(i, Ring::kData, 1, kNext, static_cast<uint16_t>((i + 1) % 8));
       }
       r.offer(3);
     },
     "a chain is longer than the queue, or a loop"},
    {"a loop of writable memory",
     [](Ring& r) {
       r.describe(0, Ring::kData, 1, kNext | kWrite, 1);
       r.describe(1, Ring::kData, 1, kNext | kWrite, 0);
       r.offer(0);
     },
     "a chain is longer than the queue, or a loop"},
    {"a descriptor of no bytes",
     [](Ring& r) {
       r.describe(0, Ring::kData, 0, 0);
       r.offer(0);
     },
     "a descriptor of no bytes"},
    {"memory of 4 GiB less a byte",
     [](Ring& r) {
       r.describe(0, Ring::kData, UINT32_MAX, kWrite);
       r.offer(0);
     },
     "memory that is not RAM"},
    {"memory that wraps around the address space",
     [](Ring& r) {
       r.describe(0, UINT64_MAX - 7, 16, 0);
       r.offer(0);
     },
     "memory that is not RAM"},
    {"memory in a hole",
     [](Ring& r) {
       r.describe(0, R::kHole, 16, 0);
       r.offer(0);
     },
     "memory that is not RAM"},
    {"memory that ends in a hole",
     [](Ring& r) {
       r.describe(0, R::kRamEnd - 8, 16, 0);
       r.offer(0);
     },
     "memory that is not RAM"},
    {"a device's registers to read",
     [](Ring& r) {
       r.describe(0, R::kDevice, 4, 0);
       r.offer(0);
     },
     "memory that is not RAM"},
    {"a device's registers to write",
     [](Ring& r) {
       r.describe(0, R::kDevice, 4, kWrite);
       r.offer(0);
     },
     "memory that is not RAM"},
    {"ROM to write",
     [](Ring& r) {
       r.describe(0, R::kRom, 4, kWrite);
       r.offer(0);
     },
     "memory that is not RAM"},
    {"readable memory behind writable",
     [](Ring& r) {
       r.describe(0, Ring::kData, 1, kNext | kWrite, 1);
       r.describe(1, Ring::kData, 1, 0);
       r.offer(0);
     },
     "readable memory after writable"},
    {"an indirect table that was not negotiated",
     [](Ring& r) {
       r.describe(0, Ring::kTable, 16, kIndirect);
       r.offer(0);
     },
     "an indirect table that was not negotiated", Features::kEventIdx},
    {"an indirect table with a next",
     [](Ring& r) {
       r.describe(0, Ring::kTable, 16, kIndirect | kNext, 1);
       r.offer(0);
     },
     "an indirect table in the middle of a chain"},
    {"an indirect table of no bytes",
     [](Ring& r) {
       r.describe(0, Ring::kTable, 0, kIndirect);
       r.offer(0);
     },
     "an indirect table of an odd size"},
    {"an indirect table of a descriptor and a half",
     [](Ring& r) {
       r.describe(0, Ring::kTable, 24, kIndirect);
       r.offer(0);
     },
     "an indirect table of an odd size"},
    {"an indirect table in a hole",
     [](Ring& r) {
       r.describe(0, R::kHole, 16, kIndirect);
       r.offer(0);
     },
     "an indirect table that is not in RAM"},
    {"an indirect table in a device's registers",
     [](Ring& r) {
       r.describe(0, R::kDevice, 16, kIndirect);
       r.offer(0);
     },
     "an indirect table that is not in RAM"},
    {"an indirect table over two RAM blocks",
     [](Ring& r) {
       r.describe(0, R::kBlock - 16, 32, kIndirect);
       r.offer(0);
     },
     "an indirect table that is not in RAM"},
    {"an indirect table inside another",
     [](Ring& r) {
       r.describe(0, Ring::kTable + 0x100, 16, kIndirect, 0, Ring::kTable);
       r.describe(0, Ring::kTable, 16, kIndirect);
       r.offer(0);
     },
     "an indirect table inside another"},
    {"an indirect table that is itself",
     [](Ring& r) {
       r.describe(0, Ring::kTable, 16, kIndirect, 0, Ring::kTable);
       r.describe(0, Ring::kTable, 16, kIndirect);
       r.offer(0);
     },
     "an indirect table inside another"},
    {"an indirect table that is the ring's own",
     [](Ring& r) {
       r.describe(0, Ring::kDescriptors, 8 * 16, kIndirect);
       r.offer(0);
     },
     "an indirect table inside another"},
    {"a loop inside an indirect table",
     [](Ring& r) {
       r.describe(0, Ring::kData, 1, kNext, 1, Ring::kTable);
       r.describe(1, Ring::kData, 1, kNext, 0, Ring::kTable);
       r.describe(0, Ring::kTable, 32, kIndirect);
       r.offer(0);
     },
     "a chain is longer than the queue, or a loop"},
    {"a next that leaves the indirect table",
     [](Ring& r) {
       r.describe(0, Ring::kData, 1, kNext, 1, Ring::kTable);
       r.describe(1, Ring::kData, 1, 0, 0, Ring::kTable);
       r.describe(0, Ring::kTable, 16, kIndirect);
       r.offer(0);
     },
     "a descriptor is outside its table"},
    {"an indirect chain longer than the queue",
     [](Ring& r) {
       for (uint16_t i = 0; i < 9; ++i) {
         r.describe(i, Ring::kData, 1, i == 8 ? 0 : kNext, static_cast<uint16_t>(i + 1),
                    Ring::kTable);
       }
       r.describe(0, Ring::kTable, 9 * 16, kIndirect);
       r.offer(0);
     },
     "a descriptor is outside its table"},
    {"direct and indirect descriptors, together longer than the queue",
     [](Ring& r) {
       for (uint16_t i = 0; i < 8; ++i) {
         r.describe(i, Ring::kData, 1, i == 7 ? 0 : kNext, static_cast<uint16_t>(i + 1),
                    Ring::kTable);
       }
       r.describe(0, Ring::kData, 1, kNext, 1);
       r.describe(1, Ring::kTable, 8 * 16, kIndirect);
       r.offer(0);
     },
     "a chain is longer than the queue, or a loop"},
};

}  // namespace

TEST_CASE("VirtQueue: each broken rule breaks the queue, by name", "[virtio][sweep]") {
  const BqlGuard guard;
  for (const Abuse& abuse : kAbuses) {
    CAPTURE(abuse.what);
    Ring ring(8, abuse.features);
    abuse.offer(ring);
    CHECK_FALSE(ring.pop());
    CHECK(ring.queue().broken());
    CHECK(ring.queue().reason() == std::string(abuse.reason));
    CHECK(ring.queue().in_flight() == 0);
    CHECK(ring.memory.device_accesses() == 0);
    // It stays so, whatever comes.
    ring.offer_one();
    CHECK_FALSE(ring.pop());
    CHECK_FALSE(ring.queue().has_available());
    CHECK_FALSE(ring.queue().publish());
    ring.queue().suppress_notifications();
    CHECK(ring.queue().enable_notifications());  // there is nothing to look at again
    CHECK(ring.used_index() == 0);
  }
}

TEST_CASE("VirtQueue: requests in hand come home when another breaks the queue", "[virtio]") {
  const BqlGuard guard;
  for (const Abuse& abuse : kAbuses) {
    CAPTURE(abuse.what);
    Ring ring(8, abuse.features);
    ring.describe(7, Ring::kData, 16, kWrite);
    ring.offer(7);
    VirtqElement held;
    REQUIRE(ring.queue().pop(held));
    const auto done = ring.queue().in_flight();
    abuse.offer(ring);
    CHECK_FALSE(ring.pop());
    CHECK(ring.queue().in_flight() == done);
    ring.queue().push(held, 16);
    CHECK(ring.queue().in_flight() == 0);
    CHECK_FALSE(ring.queue().publish());
    CHECK(ring.used_index() == 0);
  }
}

TEST_CASE("VirtQueue: a chain of more than 4 GiB in all breaks the queue",
          "[virtio][virtio-1.2 2.7.5.1]") {
  const BqlGuard guard;
  // The same RAM over and over: each piece is fine.
  constexpr uint32_t kPiece = 4 << 20;
  constexpr uint16_t kTooMany = 1024;  // 4 GiB
  for (const uint16_t flags : {uint16_t{0}, kWrite}) {
    for (const bool too_long : {false, true}) {
      CAPTURE(flags, too_long);
      Ring ring(kTooMany);
      const uint16_t pieces = too_long ? kTooMany : kTooMany - 1;
      for (uint16_t i = 0; i < pieces; ++i) {
        const bool last = i + 1 == pieces;
        ring.describe(i, RingMemory::kBlock, kPiece,
                      static_cast<uint16_t>(last ? flags : flags | kNext),
                      static_cast<uint16_t>(i + 1));
      }
      ring.offer(0);
      CHECK(ring.pop() == !too_long);
      CHECK(ring.queue().broken() == too_long);
      if (!too_long) ring.queue().drop(ring.element);
    }
  }
}

TEST_CASE("VirtQueue: more requests than descriptors break the queue", "[virtio]") {
  const BqlGuard guard;
  Ring ring(2);
  ring.describe(0, Ring::kData, 1, 0);
  std::array<VirtqElement, 2> held;
  for (VirtqElement& element : held) {
    ring.offer(0);  // the same one: only the number tells
    REQUIRE(ring.queue().pop(element));
  }
  ring.offer(0);
  CHECK_FALSE(ring.pop());
  CHECK(ring.queue().broken());
  for (VirtqElement& element : held) ring.queue().drop(element);
}

TEST_CASE("VirtQueue: a request that a device rejects breaks the queue", "[virtio]") {
  const BqlGuard guard;
  Ring ring;
  ring.offer_one();
  REQUIRE(ring.pop());
  ring.queue().reject(ring.element, "not a request");
  CHECK(ring.queue().broken());
  CHECK(ring.queue().reason() == std::string("not a request"));
  CHECK(ring.queue().in_flight() == 0);
}

TEST_CASE("VirtQueue: a queue that can not be is refused", "[virtio][sweep]") {
  const BqlGuard guard;
  Ring ring;
  const VirtQueueConfig good = ring.config();
  const auto with = [&](auto change) {
    VirtQueueConfig config = good;
    change(config);
    return config;
  };
  using C = VirtQueueConfig;
  const std::vector<std::pair<const char*, VirtQueueConfig>> rows{
      {"no entries", with([](C& c) { c.size = 0; })},
      {"three entries", with([](C& c) { c.size = 3; })},
      {"too many entries", with([](C& c) { c.size = 2048; })},
      {"the most that fit into the register", with([](C& c) { c.size = 0xffff; })},
      {"misaligned descriptors", with([](C& c) { c.descriptors += 8; })},
      {"a misaligned available ring", with([](C& c) { c.available += 1; })},
      {"a misaligned used ring", with([](C& c) { c.used += 2; })},
      {"descriptors in a hole", with([](C& c) { c.descriptors = RingMemory::kHole; })},
      {"an available ring in a hole", with([](C& c) { c.available = RingMemory::kHole; })},
      {"a used ring in a hole", with([](C& c) { c.used = RingMemory::kHole; })},
      {"a used ring in ROM", with([](C& c) { c.used = RingMemory::kRom; })},
      {"a used ring in registers", with([](C& c) { c.used = RingMemory::kDevice; })},
      {"descriptors over two blocks", with([](C& c) { c.descriptors = RingMemory::kBlock - 16; })},
      {"a used ring that ends in a hole", with([](C& c) { c.used = RingMemory::kRamEnd - 8; })},
      {"addresses at the end of the space", with([](C& c) { c.descriptors = UINT64_MAX - 15; })},
      {"addresses that wrap", with([](C& c) { c.used = UINT64_MAX - 3; })},
  };
  for (const auto& [what, config] : rows) {
    CAPTURE(what);
    const auto queue = VirtQueue::create(config, Features::kBoth, ring.memory.dma());
    REQUIRE_FALSE(queue);
    CHECK(queue.error().kind() == ErrorKind::kInvalidArgument);
  }
  CHECK(ring.memory.device_accesses() == 0);
  CHECK(VirtQueue::create(good, Features::kBoth, ring.memory.dma()));
}
