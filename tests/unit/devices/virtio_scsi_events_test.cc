// What the SCSI host device tells by itself: in which order, when, and to whom.
#include "devices/virtio/virtio_scsi_events.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <tuple>

#include "tests/unit/devices/virtio_scsi_adapter.h"

using namespace rhea;
using namespace rhea::devices;
using Adapter = test::VirtioScsiAdapter;
using test::FakeUnit;
using Reason = VirtioScsiResetReason;

namespace {

constexpr uint32_t kReset = 1, kChange = 3, kMissed = 0x8000'0000;
constexpr uint64_t kHotplug = 2, kChangeFeature = 4;

/// Its kind, its LUN and its reason.
using Event = std::tuple<uint32_t, unsigned, uint32_t>;
Event parts(const VirtioScsiEvent& event) {
  return {event.event, static_cast<unsigned>(event.lun[2] << 8 | event.lun[3]), event.reason};
}
Event next_event(Adapter& adapter, unsigned page) {
  CHECK(adapter.wait_used(adapter.events()) == sizeof(VirtioScsiEvent));
  return parts(adapter.event(page));
}

}  // namespace

TEST_CASE("VirtioScsi: units that come, go and change are told of", "[virtio-scsi][events]") {
  Adapter adapter;
  adapter.start();
  for (unsigned i = 0; i < 4; ++i) adapter.offer_event(i);
  adapter.round_the_contexts();
  CHECK_FALSE(adapter.events().take().has_value());
  const auto unit = adapter.add(300, 5);
  CHECK(next_event(adapter, 0) == Event{kReset, 0x412c, 1});
  CHECK(adapter.event(0).lun[0] == 1);
  CHECK(adapter.event(0).lun[1] == 5);
  unit->attention(sense::kCapacityChanged);
  CHECK(next_event(adapter, 1) == Event{kChange, 0x412c, 0x092a});
  unit->attention(sense::kMediumChanged);  // is no parameter
  // A CD drive has other ways.
  unit->is_drive = true;
  unit->attention(sense::kCapacityChanged);
  adapter.remove(*unit);
  CHECK(next_event(adapter, 2) == Event{kReset, 0x412c, 2});
  CHECK_FALSE(adapter.events().take().has_value());
}

TEST_CASE("VirtioScsi: an event waits for a buffer, a queue that runs and a machine that does",
          "[virtio-scsi][events]") {
  Adapter adapter;
  bql.assert_held();
  const auto early = adapter.add(0);  // before there is a driver: it looks for itself
  adapter.start();
  const auto unit = adapter.add(1);
  adapter.remove(*early);
  adapter.round_the_contexts();
  adapter.offer_event(0);
  CHECK(next_event(adapter, 0) == Event{kReset, 1, 1});
  adapter.offer_event(1);
  CHECK(next_event(adapter, 1) == Event{kReset, 0, 2});
  adapter.scsi->machine_stopped();
  adapter.round_the_contexts();  // they have heard of it
  adapter.offer_event(2);
  adapter.remove(*unit);
  adapter.round_the_contexts();
  CHECK_FALSE(adapter.events().take().has_value());
  adapter.scsi->machine_runs();
  CHECK(next_event(adapter, 2) == Event{kReset, 1, 2});

  // The queue is enabled after the device went live.
  adapter.driver().write(VirtioCommonReg::kStatus, 0, 1);
  adapter.turn_until([&] { return adapter.driver().status() == 0; });
  adapter.driver().negotiate(~uint64_t{0});
  adapter.driver().go();
  adapter.add(7);
  adapter.round_the_contexts();
  auto late = adapter.driver().set_up_queue(1, 0x2'0000, 8, adapter.scsi->kick_fd(1));
  late.offer(std::array{test::GuestBuffer{Adapter::address(3), 16, true}});
  late.ring();
  CHECK(adapter.wait_used(late) == 16);
  CHECK(parts(adapter.event(3)) == Event{kReset, 7, 1});
}

TEST_CASE("VirtioScsi: a driver hears of what it has asked for", "[virtio-scsi][events]") {
  for (const auto& [asked, told] : {std::pair{kHotplug, kReset}, {kChangeFeature, kChange}}) {
    Adapter adapter;
    adapter.start(asked | ~uint64_t{0xf});
    adapter.offer_event(0);
    adapter.offer_event(1);
    const auto unit = adapter.add(0);
    unit->attention(sense::kCapacityChanged);
    CHECK(std::get<0>(next_event(adapter, 0)) == told);
    adapter.round_the_contexts();
    CHECK_FALSE(adapter.events().take().has_value());
  }
}

TEST_CASE("VirtioScsi: what waited for a driver that is gone is forgotten",
          "[virtio-scsi][events]") {
  Adapter adapter;
  bql.assert_held();
  adapter.start();
  adapter.add(0);
  adapter.round_the_contexts();
  adapter.scsi->reset_now();
  adapter.start();
  adapter.offer_event(0);
  adapter.round_the_contexts();
  CHECK_FALSE(adapter.events().take().has_value());
  adapter.add(1);
  CHECK(next_event(adapter, 0) == Event{kReset, 1, 1});
}

TEST_CASE("VirtioScsi: events that nobody took are dropped at last, and the driver is told",
          "[virtio-scsi][events]") {
  Adapter adapter;
  adapter.start();
  for (uint16_t lun = 0; lun < VirtioScsiEvents::kMost + 2; ++lun) adapter.add(lun);
  adapter.round_the_contexts();
  adapter.offer_event(0);
  CHECK(next_event(adapter, 0) == Event{kReset | kMissed, 0, 1});
  for (uint16_t lun = 1; lun < VirtioScsiEvents::kMost; ++lun) {
    adapter.offer_event(0);
    CHECK(next_event(adapter, 0) == Event{kReset, lun, 1});
  }
  adapter.offer_event(0);
  adapter.round_the_contexts();
  CHECK_FALSE(adapter.events().take().has_value());
}

TEST_CASE("VirtioScsi: an event waits for a buffer that holds it", "[virtio-scsi][events]") {
  Adapter adapter;
  adapter.start();
  adapter.offer_event(0, 15);
  adapter.offer_event(1, 3);
  adapter.events().offer(std::array{test::GuestBuffer{Adapter::address(2), 16, false}});
  adapter.offer_event(3, 64);
  adapter.add(0);
  CHECK(adapter.wait_used(adapter.events()) == 4);
  CHECK(adapter.page(0)[0] == std::byte{0});
  CHECK(adapter.page(0)[4] == std::byte{0xee});
  CHECK(adapter.wait_used(adapter.events()) == 0);
  CHECK(adapter.wait_used(adapter.events()) == 0);
  CHECK(next_event(adapter, 3) == Event{kReset, 0, 1});
}

TEST_CASE("VirtioScsi: events follow their queue to another event loop",
          "[virtio-scsi][events][virtio-move]") {
  Adapter adapter;
  bql.assert_held();
  adapter.start();
  adapter.offer_event(0);
  adapter.offer_event(1);
  auto unit = adapter.add(0);
  CHECK(next_event(adapter, 0) == Event{kReset, 0, 1});
  REQUIRE(adapter.scsi->hold().has_value());
  unit->attention(sense::kCapacityChanged);
  adapter.scsi->move_queues(std::vector<AioContext*>(3, &adapter.loop().block()));
  adapter.scsi->release();
  CHECK(next_event(adapter, 1) == Event{kChange, 0, 0x092a});
  CHECK(adapter.command({0}, Adapter::lun(0)).sense[12] == 0x29);
}

TEST_CASE("VirtioScsi: an event for a queue that is broken is not told of as another break",
          "[virtio-scsi][events]") {
  Adapter adapter;
  adapter.start();
  adapter.events().offer_head(Adapter::kSize);  // outside the table
  adapter.events().ring();
  adapter.add(0);
  adapter.turn_until([&] { return (adapter.driver().status() & 64) != 0; });
  const uint64_t before = adapter.scsi->errors().count();
  adapter.add(1);
  adapter.round_the_contexts();
  adapter.round_the_contexts();
  CHECK(adapter.scsi->errors().count() == before);
}
