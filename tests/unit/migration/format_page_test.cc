// What migration/FORMAT.md shows is what the code writes, reads and decides.
#include "tests/unit/migration/format_page.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "migration/frame_link.h"
#include "migration/handover.h"
#include "migration/messages.h"
#include "migration/page_stream.h"
#include "tests/unit/migration/multifd_fixture.h"

using namespace rhea;
using namespace rhea::migration;
using namespace rhea::migration::test;

namespace {

using Bytes = std::vector<std::byte>;

/// What `send` writes to a channel.
template <class Send>
Bytes written(Send send) {
  Ends ends = socket_ends();
  REQUIRE(send(*ends.out).has_value());
  ends.out.reset();
  Bytes all;
  std::array<std::byte, 1> one;
  while (MUST(ends.in->read_unless_ended(one))) all.push_back(one[0]);
  return all;
}

/// A channel on which `bytes` come, and then the end.
ChannelPtr arriving(const Bytes& bytes) {
  Ends ends = socket_ends();
  REQUIRE(ends.out->write(bytes).has_value());
  return std::move(ends.in);
}

/// As hexadecimal text: a page that is wrong shows what it should say.
std::string hex(const Bytes& bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x} ", byte);
  return text;
}

Hello hello() {
  return {.machine = {.program = "Rhea 0.1.0",
                      .machine = "pc",
                      .accelerator = "kvm",
                      .cpus = 2,
                      .uuid = "0c2e4f60-8a1b-4c3d-9e5f-102030405060",
                      .ram = {{"pc.ram", 0x8000000}},
                      .devices = {{"rtc", "mc146818", 1, 0x3d41a1a9, ""}}},
          .channels = 2,
          .session = 0x5e55104e,
          .validate_uuid = false};
}

/// Four pages: the last has content.
std::shared_ptr<memory::RamBlock> ram_of_the_page() {
  auto ram = make_ram(4);
  std::ranges::fill(page_of(*ram, 3), std::byte{0x5a});
  return ram;
}

constexpr std::array<uint32_t, 3> kSent{1, 2, 3};

/// What a machine like it has when these packets of channel 1 have come, its hello first.
std::shared_ptr<memory::RamBlock> received_by_channel(const Bytes& stream) {
  auto ram = make_ram(4);
  std::ranges::fill(ram->bytes(), std::byte{1});
  ArrivingRam where({ram_view(*ram)});
  const ChannelPtr in = arriving(stream);
  const MultifdHello first = MUST(read_hello(*in));
  CHECK((first.channel == 1 && first.session == hello().session));
  PacketReader reader(1, where);
  CHECK(MUST(reader.next(*in)).event == PacketReader::Received::Event::kPages);
  return ram;
}

void check_as_sent(const memory::RamBlock& ram) {
  CHECK(std::ranges::all_of(page_of(ram, 0), [](auto b) { return b == std::byte{1}; }));
  for (const size_t empty : {size_t{1}, size_t{2}}) {
    CHECK(std::ranges::all_of(page_of(ram, empty), [](auto b) { return b == std::byte{}; }));
  }
  CHECK(std::ranges::all_of(page_of(ram, 3), [](auto b) { return b == std::byte{0x5a}; }));
}

Bytes plus(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// The events that a cell names, as "ready, ack".
template <class Event>
std::vector<Event> events_of(const std::string& cell, const std::map<std::string, Event>& names) {
  std::vector<Event> events;
  for (size_t at = 0; at < cell.size();) {
    const size_t end = std::min(cell.find(", ", at), cell.size());
    const std::string name = cell.substr(at, end - at);
    INFO(name);
    REQUIRE(names.contains(name));
    events.push_back(names.at(name));
    at = end + 2;
  }
  return events;
}

const std::map<std::string, SourceEvent> kSourceEvents{
    {"*ready*", SourceEvent::kReady},     {"*ack*", SourceEvent::kAck},
    {"*refused*", SourceEvent::kRefused}, {"lost", SourceEvent::kLost},
    {"cancel", SourceEvent::kCancel},     {"locks taken", SourceEvent::kTaken},
    {"not taken", SourceEvent::kNotTaken}};
const std::map<std::string, SourceAction> kSourceActions{
    {"release", SourceAction::kRelease}, {"go", SourceAction::kGo},
    {"retake", SourceAction::kRetake},   {"resume", SourceAction::kResume},
    {"stay", SourceAction::kStayPaused}, {"nothing", SourceAction::kNothing}};

const std::map<std::string, TargetEvent> kTargetEvents{
    {"loaded", TargetEvent::kLoaded},       {"invalid", TargetEvent::kInvalid},
    {"*released*", TargetEvent::kReleased}, {"*go*", TargetEvent::kGo},
    {"lost", TargetEvent::kLost},           {"locks taken", TargetEvent::kTaken},
    {"not taken", TargetEvent::kNotTaken}};
const std::map<std::string, TargetAction> kTargetActions{
    {"ready", TargetAction::kSendReady}, {"refuse", TargetAction::kRefuse},
    {"take", TargetAction::kTake},       {"ack", TargetAction::kSendAck},
    {"run", TargetAction::kRun},         {"arrive", TargetAction::kArrive},
    {"give up", TargetAction::kGiveUp},  {"end", TargetAction::kEnd},
    {"nothing", TargetAction::kNothing}};
const std::map<std::string, std::set<TakeOver>> kTakeOvers{
    {"", {TakeOver::kLockAndRun, TakeOver::kLockLate, TakeOver::kArrive}},
    {"lock first", {TakeOver::kLockAndRun}},
    {"lock late", {TakeOver::kLockLate}},
    {"arrive paused", {TakeOver::kArrive}},
    {"lock late, arrive paused", {TakeOver::kLockLate, TakeOver::kArrive}}};

}  // namespace

TEST_CASE("FORMAT.md: the frames are those that the code writes", "[migration]") {
  const FormatPage page;
  const auto frame = [&](FrameKind kind, const auto& state) {
    return hex(written([&](Channel& out) { return FrameLink(out).send_state(kind, state); }));
  };
  CHECK(hex(page.bytes("hello")) == frame(FrameKind::kHello, hello()));
  CHECK(hex(page.bytes("sync")) == frame(FrameKind::kSync, Sync{.pass = 1, .channel_sync = 1}));
  CHECK(hex(page.bytes("fail")) == hex(written([](Channel& out) {
          return FrameLink(out).send_text(FrameKind::kFail, "no");
        })));
}

TEST_CASE("FORMAT.md: the frame of pages is what is written, and is read", "[migration]") {
  const FormatPage page;
  const auto source = ram_of_the_page();
  CHECK(hex(page.bytes("pages")) == hex(written([&](Channel& out) {
          FrameLink link(out);
          const auto sender =
              MUST(PageSender::create(link, {ram_view(*source)}, PageChecksum::kYes));
          return sender->send({.block = 0, .pages = kSent});
        })));

  const ChannelPtr in = arriving(page.bytes("pages"));
  FrameLink link(*in);
  auto ram = make_ram(4);
  std::ranges::fill(ram->bytes(), std::byte{1});
  PageReceiver receiver(link, {ram});
  const Frame frame = MUST(link.receive());
  CHECK(frame.kind == FrameKind::kPages);
  CHECK(MUST(receiver.receive(frame.payload)).normal == 1);
  check_as_sent(*ram);
}

TEST_CASE("FORMAT.md: the packets of a channel are what is written, and are read",
          "[migration][multifd]") {
  const FormatPage page;
  const auto source = ram_of_the_page();
  const std::vector<RamView> views{ram_view(*source)};
  const auto writer =
      MUST(PacketWriter::create(1, views, {.checksum = PacketOptions::Checksum::kPayload}));
  PageBatch batch;
  batch.count = kSent.size();
  std::ranges::copy(kSent, batch.pages.begin());
  CHECK(hex(page.bytes("packet hello")) ==
        hex(written([&](Channel& out) { return writer->hello(out, hello().session); })));
  CHECK(hex(page.bytes("packet pages")) ==
        hex(written([&](Channel& out) { return writer->pages(out, batch); })));
  CHECK(hex(page.bytes("packet sync")) ==
        hex(written([&](Channel& out) { return writer->sync(out, 1); })));

  check_as_sent(*received_by_channel(plus(page.bytes("packet hello"), page.bytes("packet pages"))));
  // What another zstd makes of a page may be other bytes, but all of them can be read.
  check_as_sent(*received_by_channel(plus(page.bytes("packet hello"), page.bytes("packet zstd"))));
}

TEST_CASE("FORMAT.md: the source's table is what it decides by", "[migration]") {
  std::map<std::pair<SourceState, SourceEvent>, std::pair<std::string, SourceAction>> rows;
  std::map<std::string, SourceState> states;
  for (auto state : {SourceState::kSent, SourceState::kReleased, SourceState::kRetaking,
                     SourceState::kCommitted, SourceState::kResumed, SourceState::kLocked}) {
    states[std::string(to_string(state))] = state;
  }
  for (const auto& row : FormatPage().table("source")) {
    REQUIRE(row.size() == 5);
    for (const SourceEvent event : events_of(row[1], kSourceEvents)) {
      const bool fresh =
          rows.try_emplace({states.at(row[0]), event}, row[2], kSourceActions.at(row[3])).second;
      INFO(row[0] << " and " << row[1]);
      CHECK(fresh);
    }
  }
  for (const auto& [name, state] : states) {
    for (const auto& [what, event] : kSourceEvents) {
      const auto row = rows.find({state, event});
      const auto& [next, action] =
          row == rows.end() ? std::pair(name, SourceAction::kNothing) : row->second;
      const SourceStep step = source_step(state, event);
      INFO(name << " hears of " << what);
      CHECK(to_string(step.next) == next);
      CHECK(step.action == action);
    }
  }
}

TEST_CASE("FORMAT.md: the destination's table is what it decides by", "[migration]") {
  std::map<std::tuple<TargetState, TargetEvent, TakeOver>, std::pair<std::string, TargetAction>>
      rows;
  std::map<std::string, TargetState> states;
  for (auto state : {TargetState::kLoading, TargetState::kReady, TargetState::kLocking,
                     TargetState::kAcked, TargetState::kLateLocking, TargetState::kRunning,
                     TargetState::kArrived, TargetState::kUnconfirmed, TargetState::kGone}) {
    states[std::string(to_string(state))] = state;
  }
  for (const auto& row : FormatPage().table("destination")) {
    REQUIRE(row.size() == 6);
    for (const TargetEvent event : events_of(row[1], kTargetEvents)) {
      for (const TakeOver how : kTakeOvers.at(row[2])) {
        const bool fresh =
            rows.try_emplace({states.at(row[0]), event, how}, row[3], kTargetActions.at(row[4]))
                .second;
        INFO(row[0] << " and " << row[1] << " and " << row[2]);
        CHECK(fresh);
      }
    }
  }
  for (const auto& [name, state] : states) {
    for (const auto& [what, event] : kTargetEvents) {
      for (const TakeOver how : kTakeOvers.at("")) {
        const auto row = rows.find({state, event, how});
        const auto& [next, action] =
            row == rows.end() ? std::pair(name, TargetAction::kNothing) : row->second;
        const TargetStep step = target_step(state, event, how);
        INFO(name << " hears of " << what << " as " << static_cast<int>(how));
        CHECK(to_string(step.next) == next);
        CHECK(step.action == action);
      }
    }
  }
}
