// What the ring does with a driver that keeps the rules; virt_queue_abuse_test.cc has the others.
#include "devices/virtio/virt_queue.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <numeric>
#include <thread>

#include "memory/topology.h"
#include "tests/support/size.h"
#include "tests/unit/devices/virt_queue_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;
using Features = VirtQueue::Features;

namespace {

std::vector<size_t> lengths(std::span<const iovec> pieces) {
  std::vector<size_t> out;
  for (const iovec& piece : pieces) out.push_back(piece.iov_len);
  return out;
}

}  // namespace

TEST_CASE("VirtQueue: a chain comes as its readable pieces, then its writable ones",
          "[virtio][virtio-1.2 2.7.4.2]") {
  const BqlGuard guard;
  Ring ring;
  ring.describe(3, Ring::kData, 16, kNext, 1);
  ring.describe(1, Ring::kData + 0x100, 512, kNext, 7);
  ring.describe(7, Ring::kData + 0x1000, 64, kNext | kWrite, 0);
  ring.describe(0, Ring::kData + 0x2000, 1, kWrite);
  CHECK_FALSE(ring.pop());
  ring.offer(3);
  REQUIRE(ring.pop());
  CHECK(ring.element.head() == 3);
  CHECK(lengths(ring.element.readable()) == std::vector<size_t>{16, 512});
  CHECK(lengths(ring.element.writable()) == std::vector<size_t>{64, 1});
  CHECK(ring.element.readable()[1].iov_base == ring.memory.host(Ring::kData + 0x100));
  CHECK(ring.element.readable_bytes() == 528);
  CHECK(ring.element.writable_bytes() == 65);
  CHECK(ring.queue().in_flight() == 1);
  CHECK_FALSE(ring.pop());
  ring.queue().push(ring.element, 65);
  CHECK(ring.used_index() == 0);  // not before it is published
  ring.queue().publish();
  CHECK(ring.used_index() == 1);
  CHECK(ring.used_id(0) == 3);
  CHECK(ring.used_length(0) == 65);
  CHECK(ring.queue().in_flight() == 0);
}

TEST_CASE("VirtQueue: memory that spans RAM blocks comes in as many pieces", "[virtio]") {
  const BqlGuard guard;
  Ring ring;
  ring.describe(0, RingMemory::kBlock - 100, 300, kWrite);
  ring.offer(0);
  REQUIRE(ring.pop());
  CHECK(lengths(ring.element.writable()) == std::vector<size_t>{100, 200});
  CHECK(ring.element.writable_bytes() == 300);
  ring.queue().drop(ring.element);
}

TEST_CASE("VirtQueue: an indirect table is a chain, alone or behind direct descriptors",
          "[virtio][virtio-1.2 2.7.5.3.2]") {
  const BqlGuard guard;
  Ring ring;
  ring.describe(0, Ring::kData, 16, kNext, 2, Ring::kTable);
  ring.describe(2, Ring::kData + 16, 8, kWrite, 0, Ring::kTable);
  ring.describe(5, Ring::kTable, 3 * 16, kIndirect);
  ring.offer(5);
  REQUIRE(ring.pop());
  CHECK(ring.element.head() == 5);
  CHECK(lengths(ring.element.readable()) == std::vector<size_t>{16});
  CHECK(lengths(ring.element.writable()) == std::vector<size_t>{8});
  ring.queue().drop(ring.element);
  ring.describe(1, Ring::kData + 64, 4, kNext, 5);
  ring.offer(1);
  REQUIRE(ring.pop());
  CHECK(ring.element.head() == 1);
  CHECK(lengths(ring.element.readable()) == std::vector<size_t>{4, 16});
  CHECK(lengths(ring.element.writable()) == std::vector<size_t>{8});
  ring.queue().drop(ring.element);
}

TEST_CASE("VirtQueue: the device ignores the write flag of an indirect descriptor",
          "[virtio][virtio-1.2 2.7.5.3.2]") {
  const BqlGuard guard;
  Ring ring;
  ring.describe(0, Ring::kData, 16, 0, 0, Ring::kTable);
  ring.describe(0, Ring::kTable, 16, kIndirect | kWrite);
  ring.offer(0);
  REQUIRE(ring.pop());
  CHECK(ring.element.readable_bytes() == 16);
  ring.queue().drop(ring.element);
}

TEST_CASE("VirtQueue: a chain as long as the queue is served, direct or indirect",
          "[virtio][sweep]") {
  const BqlGuard guard;
  for (const uint16_t size : {uint16_t{1}, uint16_t{2}, uint16_t{256}, kMaxQueueSize}) {
    CAPTURE(size);
    Ring ring(size);
    for (const uint64_t table : {Ring::kDescriptors, Ring::kTable}) {
      for (uint16_t i = 0; i < size; ++i) {
        const bool last = i + 1 == size;
        ring.describe(i, Ring::kData + 4 * uint64_t{i}, 4, last ? 0 : kNext,
                      static_cast<uint16_t>(i + 1), table);
      }
      if (table == Ring::kTable) ring.describe(0, table, 16U * size, kIndirect);
      ring.offer(0);
      REQUIRE(ring.pop());
      CHECK(ring.element.readable_bytes() == 4U * size);
      ring.queue().drop(ring.element);
    }
  }
}

TEST_CASE("VirtqElement: copies cross pieces as the driver has cut them",
          "[virtio][virtio-1.2 2.7.4]") {
  const BqlGuard guard;
  Ring ring(64);
  std::array<uint8_t, 32> pattern;
  std::iota(pattern.begin(), pattern.end(), uint8_t{1});
  for (const uint32_t cut : {1U, 3U, 7U, 15U, 16U}) {
    CAPTURE(cut);
    // A header of 16 bytes and 16 of data, cut after `cut` bytes, then as many to write.
    ring.describe(0, Ring::kData, cut, kNext, 1);
    ring.describe(1, Ring::kData + 0x100, 32 - cut, kNext, 2);
    ring.describe(2, Ring::kData + 0x200, 32 - cut, kNext | kWrite, 3);
    ring.describe(3, Ring::kData + 0x300, cut, kWrite);
    std::memcpy(ring.memory.host(Ring::kData), pattern.data(), cut);
    std::memcpy(ring.memory.host(Ring::kData + 0x100), pattern.data() + cut, 32 - cut);
    ring.offer(0);
    REQUIRE(ring.pop());
    std::array<uint8_t, 16> header{};
    CHECK(ring.element.copy_out(0, std::as_writable_bytes(std::span(header))));
    CHECK(std::ranges::equal(header, std::span(pattern).first(16)));
    CHECK(ring.element.copy_out(16, std::as_writable_bytes(std::span(header))));
    CHECK(std::ranges::equal(header, std::span(pattern).last(16)));
    CHECK_FALSE(ring.element.copy_out(17, std::as_writable_bytes(std::span(header))));
    CHECK_FALSE(ring.element.copy_out(UINT64_MAX, std::as_writable_bytes(std::span(header))));
    CHECK(ring.element.copy_in(0, std::as_bytes(std::span(pattern))));
    CHECK_FALSE(ring.element.copy_in(1, std::as_bytes(std::span(pattern))));
    CHECK(std::memcmp(ring.memory.host(Ring::kData + 0x200), pattern.data(), 32 - cut) == 0);
    CHECK(std::memcmp(ring.memory.host(Ring::kData + 0x300), pattern.data() + 32 - cut, cut) == 0);

    ring.element.skip_readable(16);
    CHECK(ring.element.readable_bytes() == 16);
    size_t left = 0;
    for (const iovec& piece : ring.element.readable()) {
      CHECK(piece.iov_len != 0);
      left += piece.iov_len;
    }
    CHECK(left == 16);
    CHECK(ring.element.take_last_writable() == ring.memory.host(Ring::kData + 0x300 + cut - 1));
    left = 0;
    for (const iovec& piece : ring.element.writable()) left += piece.iov_len;
    CHECK(left == 31);
    ring.queue().drop(ring.element);
  }
}

TEST_CASE("VirtQueue: indices wrap at 2^16, entries at the queue's size", "[virtio][sweep]") {
  const BqlGuard guard;
  for (const Features features : {Features::kNone, Features::kEventIdx}) {
    Ring ring(4, features);
    ring.describe(0, Ring::kData, 1, 0);
    ring.describe(1, Ring::kData, 1, 0);
    for (uint32_t i = 0; i < 70'000; ++i) {
      ring.offer(static_cast<uint16_t>(i % 2));
      if (!ring.pop() || ring.element.head() != i % 2) FAIL("request " << i << " went wrong");
      ring.queue().push(ring.element, 0);
      ring.queue().publish();
      if (ring.used_index() != static_cast<uint16_t>(i + 1)) FAIL("index after " << i);
    }
    CHECK_FALSE(ring.pop());
    CHECK_FALSE(ring.queue().broken());
  }
}

TEST_CASE("VirtQueue: without event_idx the driver's flag says whether it wants interrupts",
          "[virtio][virtio-1.2 2.7.7.2]") {
  const BqlGuard guard;
  Ring ring(8, Features::kNone);
  ring.offer_one();
  CHECK(ring.serve_one());
  ring.set_available_flags(kAvailNoInterrupt);
  ring.offer_one();
  CHECK_FALSE(ring.serve_one());
  CHECK_FALSE(ring.queue().publish());  // nothing new
}

TEST_CASE("VirtQueue: with event_idx an interrupt comes exactly when used_event is passed",
          "[virtio][virtio-1.2 2.7.7.2]") {
  const BqlGuard guard;
  // Everywhere the index can be, its wrap-around included; batches of 1 to 4 of a queue of 4.
  constexpr uint32_t kAround = 65'536;
  Ring ring(4, Features::kEventIdx);
  ring.describe(0, Ring::kData, 1, 0);
  uint32_t done = 0, wrong = 0;
  while (done < kAround + 100) {
    const uint32_t batch = 1 + done % 4;
    const auto before = static_cast<uint16_t>(done);
    // One before the batch, inside it, or behind it.
    const auto event = static_cast<uint16_t>(before - 1 + done / 4 % (batch + 2));
    ring.set_used_event(event);
    ring.set_available_flags(kAvailNoInterrupt);  // not looked at
    for (uint32_t i = 0; i < batch; ++i) {
      ring.offer(0);
      REQUIRE(ring.pop());
      ring.queue().push(ring.element, 0);
    }
    const bool inside = static_cast<uint16_t>(event - before) < batch;
    if (ring.queue().publish() != inside) ++wrong;
    done += batch;
  }
  CHECK(wrong == 0);
}

TEST_CASE("VirtQueue: the driver is asked not to ring, and to ring for the next, either way",
          "[virtio][virtio-1.2 2.7.10]") {
  const BqlGuard guard;
  SECTION("by flag") {
    Ring ring(8, Features::kNone);
    ring.queue().suppress_notifications();
    CHECK(ring.used_flags() == kUsedNoNotify);
    ring.offer_one();
    CHECK_FALSE(ring.queue().enable_notifications());  // something came
    CHECK(ring.used_flags() == 0);
    ring.serve_one();
    CHECK(ring.queue().enable_notifications());
  }
  SECTION("by event index, over the wrap-around") {
    // As the driver does after it has moved its index from `before` to `now`.
    const auto would_ring = [](uint16_t event, uint16_t before, uint16_t now) {
      return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
    };
    Ring ring(2, Features::kEventIdx);
    for (uint32_t i = 0; i < 65'540; ++i) {
      const auto before = static_cast<uint16_t>(i);
      if (i % 2 == 1) {  // while nothing is there, or behind a request's back
        ring.queue().suppress_notifications();
        for (uint16_t more = 1; more <= 2; ++more) {
          const auto now = static_cast<uint16_t>(before + more);
          if (would_ring(ring.avail_event(), before, now)) FAIL("rung for " << i);
        }
      }
      ring.offer_one();
      ring.queue().suppress_notifications();
      if (i % 2 == 0 && !would_ring(ring.avail_event(), before, static_cast<uint16_t>(before + 1)))
        FAIL("the ring for " << i << " is taken back");
      if (ring.queue().enable_notifications()) FAIL("request " << i << " was not seen");
      ring.serve_one();
      if (!ring.queue().enable_notifications()) FAIL("there is no request behind " << i);
      if (ring.avail_event() != static_cast<uint16_t>(i + 1)) FAIL("event after " << i);
    }
    CHECK(ring.used_flags() == 0);
  }
}

TEST_CASE("VirtQueue: requests are given back in any order", "[virtio]") {
  const BqlGuard guard;
  Ring ring(4);
  std::array<VirtqElement, 3> elements;
  for (uint16_t i = 0; i < 3; ++i) {
    ring.describe(i, Ring::kData + i, 1, kWrite);
    ring.offer(i);
    REQUIRE(ring.queue().pop(elements[i]));
  }
  for (const size_t i : {2U, 0U, 1U}) ring.queue().push(elements[i], 1);
  ring.queue().publish();
  CHECK(ring.used_index() == 3);
  CHECK(ring.used_id(0) == 2);
  CHECK(ring.used_id(1) == 0);
  CHECK(ring.used_id(2) == 1);
}

TEST_CASE("VirtQueue: a request keeps the memory that it was made on, and new ones see the new map",
          "[virtio]") {
  const BqlGuard guard;
  Ring ring;
  ring.describe(0, RingMemory::kBlock, 16, kWrite);
  ring.offer(0);
  REQUIRE(ring.pop());
  ring.memory.set_high_enabled(false);
  ring.queue().begin_pass();
  REQUIRE_FALSE(ring.queue().broken());
  const std::array<std::byte, 16> data{std::byte{0x5a}};
  CHECK(ring.element.copy_in(0, data));  // where the RAM was; it is still there
  CHECK(*ring.memory.host(RingMemory::kBlock) == std::byte{0x5a});
  ring.queue().push(ring.element, 16);
  ring.queue().publish();
  CHECK(ring.used_index() == 1);
  ring.offer(0);
  CHECK_FALSE(ring.pop());
  CHECK(ring.queue().broken());
}

TEST_CASE("VirtQueue: rings that leave RAM break the queue, and its requests still come home",
          "[virtio]") {
  const BqlGuard guard;
  Ring ring;
  ring.offer_one();
  REQUIRE(ring.pop());
  ring.memory.set_low_enabled(false);
  ring.queue().begin_pass();
  CHECK(ring.queue().broken());
  ring.queue().push(ring.element, 0);
  CHECK_FALSE(ring.queue().publish());
  CHECK(ring.queue().in_flight() == 0);
  CHECK_FALSE(ring.queue().has_available());
  CHECK(ring.used_index() == 0);
}

TEST_CASE("G28: what may have been written is dirty before the used entry is visible", "[virtio]") {
  const BqlGuard guard;
  constexpr auto kClient = memory::DirtyClient::kMigration;
  Ring ring;
  const auto dirty = [&](uint64_t address) {
    return ring.memory.dirty().test_and_clear_range(kClient, address, 1);
  };
  MUST(memory::topology.start_dirty_log(kClient));
  ring.memory.dirty().test_and_clear_range(kClient, 0, RingMemory::kBlock);
  ring.describe(0, Ring::kData, 16, kNext, 1);
  ring.describe(1, Ring::kData + 0x1000, 4096, kNext | kWrite, 2);
  ring.describe(2, Ring::kData + 0x3000, 4096, kNext | kWrite, 3);
  ring.describe(3, Ring::kData + 0x5000, 1, kWrite);
  ring.offer(0);
  REQUIRE(ring.pop());
  CHECK_FALSE(dirty(Ring::kData + 0x1000));
  bool answered = true;
  SECTION("a request that was answered") { ring.queue().push(ring.element, 2 * 4096 + 1); }
  SECTION("one that failed after some of its data had come, and has a status only") {
    *ring.element.take_last_writable() = std::byte{1};
    ring.queue().push(ring.element, 0);
  }
  SECTION("one that a reset took away") {
    ring.queue().drop(ring.element);
    answered = false;
  }
  CHECK_FALSE(dirty(Ring::kData));
  CHECK(dirty(Ring::kData + 0x1000));
  CHECK(dirty(Ring::kData + 0x3000));
  CHECK(dirty(Ring::kData + 0x5000));
  CHECK(dirty(Ring::kUsed) == answered);
  CHECK(ring.queue().publish() == answered);
  CHECK(dirty(Ring::kUsed) == answered);
  memory::topology.stop_dirty_log(kClient);
}

TEST_CASE("VirtQueue: no doorbell is lost between a driver and a device that race",
          "[virtio][stress]") {
  const BqlGuard guard;
  for (const Features features : {Features::kNone, Features::kEventIdx}) {
    const uint32_t rounds = sized(20'000U, 1'000'000U);
    Ring ring(2, features);
    ring.describe(0, Ring::kData, 1, 0);
    const auto word = [&ring](uint64_t address) {
      return std::atomic_ref(*reinterpret_cast<uint16_t*>(ring.memory.host(address)));
    };
    const auto used_index = word(Ring::kUsed + 2);
    std::atomic<uint32_t> bells = 0;
    // One request at a time: a doorbell too few is a driver that waits for ever.
    std::thread driver([&] {
      for (uint32_t i = 0; i < rounds; ++i) {
        word(Ring::kAvailable + 4 + 2 * (i % 2)).store(0, std::memory_order_relaxed);
        word(Ring::kAvailable + 2).store(static_cast<uint16_t>(i + 1));
        std::atomic_thread_fence(std::memory_order_seq_cst);
        const bool rings = features == Features::kNone
                               ? (word(Ring::kUsed).load() & kUsedNoNotify) == 0
                               : word(Ring::kUsed + 4 + 8 * 2).load() == static_cast<uint16_t>(i);
        if (rings) bells.fetch_add(1);
        while (used_index.load() != static_cast<uint16_t>(i + 1)) std::this_thread::yield();
      }
    });
    uint32_t heard = 0;
    for (uint32_t served = 0; served < rounds;) {
      // Looks only when it was rung for, as a device that sleeps.
      while (bells.load() == heard) std::this_thread::yield();
      heard = bells.load();
      do {
        ring.queue().suppress_notifications();
        while (ring.pop()) {
          ring.queue().push(ring.element, 0);
          ring.queue().publish();
          ++served;
        }
      } while (!ring.queue().enable_notifications());
    }
    driver.join();
    CHECK_FALSE(ring.queue().broken());
  }
}
