// Units, attentions and targets of a SCSI bus.
#include "devices/scsi/scsi_bus.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "devices/scsi/unit_attentions.h"
#include "tests/unit/devices/scsi_bus_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;
using Fixture = ScsiBusFixture;

namespace {

std::vector<uint8_t> bytes(const FakeRequest& request, size_t size) {
  std::vector<uint8_t> out;
  for (size_t i = 0; i < size; ++i) out.push_back(std::to_integer<uint8_t>(request.memory[i]));
  return out;
}

/// The LUNs that a REPORT LUNS lists, as they are written.
std::vector<unsigned> report_luns(Fixture& f, uint8_t select = 0, const ScsiAddress& to = {}) {
  FakeRequest request({kReportLuns, 0, select, 0, 0, 0, 0, 0, 1, 0}, 256);
  const ScsiOutcome outcome = f.outcome_of(request, to);
  REQUIRE(outcome.end == End::kCompleted);
  REQUIRE(outcome.status == ScsiStatus::kGood);
  const auto data = bytes(request, outcome.transferred);
  std::vector<unsigned> luns;
  REQUIRE(data.size() >= 8);
  CHECK(data[3] == data.size() - 8);
  for (size_t at = 8; at < data.size(); at += 8) {
    luns.push_back(static_cast<unsigned>(data[at] << 8 | data[at + 1]));
    CHECK(std::all_of(&data[at + 2], &data[at] + 8, [](uint8_t byte) { return byte == 0; }));
  }
  return luns;
}

}  // namespace

TEST_CASE("UnitAttentions: conditions are told one by one, first come, first served", "[scsi]") {
  UnitAttentions attentions;
  CHECK(attentions.take() == sense::kPowerOn);
  attentions.establish(sense::kCapacityChanged);
  attentions.establish(sense::kMediumChanged);
  attentions.establish(sense::kCapacityChanged);
  attentions.establish(sense::kLunsChanged);
  attentions.forget(sense::kLunsChanged);
  CHECK(attentions.take() == sense::kCapacityChanged);
  CHECK(attentions.take() == sense::kMediumChanged);
  CHECK(attentions.take() == std::nullopt);
}

TEST_CASE("UnitAttentions: a reset clears what waits, and the strongest is told alone", "[scsi]") {
  UnitAttentions attentions;
  attentions.establish(sense::kCapacityChanged);
  attentions.establish(sense::kBusReset);
  CHECK(attentions.take() == sense::kPowerOn);
  CHECK(attentions.empty());
  attentions.establish(sense::kMediumChanged);
  attentions.establish(sense::kNexusLoss);
  attentions.establish(sense::kCapacityChanged);
  attentions.establish(sense::kDeviceReset);
  attentions.establish(sense::kNexusLoss);
  attentions.establish(sense::kMediumChanged);
  CHECK(attentions.take() == sense::kDeviceReset);
  CHECK(attentions.take() == sense::kMediumChanged);
  CHECK(attentions.empty());
}

TEST_CASE("ScsiBus: a unit goes where the user says, and else where QEMU puts it", "[scsi]") {
  Fixture f;
  bql.assert_held();
  const auto choose = [&](const ScsiBus::Place& place) {
    bql.assert_held();
    return f.bus().choose(place);
  };
  const auto error = [&](const ScsiBus::Place& place) { return choose(place).error().message(); };
  CHECK(*choose({}) == ScsiAddress{});
  f.add(0);
  f.add(0, 1);
  f.add(1, 1);
  CHECK(*choose({}) == ScsiAddress{.target = 2});
  CHECK(*choose({.lun = 5}) == ScsiAddress{.lun = 5});
  CHECK(*choose({.target = 1}) == ScsiAddress{.target = 1, .lun = 2});
  CHECK(*choose({.target = 255, .lun = 16383}) == ScsiAddress{.target = 255, .lun = 16383});
  CHECK(error({.target = 1, .lun = 1}) == "lun already used by 'lun1'");
  CHECK(error({.channel = 1}) == "bad scsi channel id: 1");
  CHECK(error({.target = 256}) == "bad scsi device id: 256");
  CHECK(error({.target = 1, .lun = 16384}) == "bad scsi device lun: 16384");
  CHECK(f.bus().add(std::make_shared<FakeUnit>(ScsiAddress{})).error().kind() ==
        ErrorKind::kExists);
  CHECK(f.listener.seen == std::vector<std::string>{"+0", "+0", "+1"});
}

TEST_CASE("ScsiBus: a bus whose targets are all taken says so", "[scsi]") {
  Fixture f;
  bql.assert_held();
  for (unsigned target = 0; target < 256; ++target) f.add(0, static_cast<uint8_t>(target));
  CHECK(f.bus().choose({}).error().message() == "no free target");
  CHECK(*f.bus().choose({.lun = 1}) == ScsiAddress{.lun = 1});
  CHECK(f.bus().units().size() == 256);
}

TEST_CASE("ScsiBus: a target answers where it has no unit, and nobody answers for no target",
          "[scsi]") {
  Fixture f;
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady})).end == End::kNoTarget);
  CHECK(f.outcome_of(FakeRequest({kReportLuns}, 16)).end == End::kNoTarget);
  f.add(3);
  const ScsiAddress absent{.lun = 1};
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), absent).sense == sense::kLunNotSupported);
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), {.target = 1}).end == End::kNoTarget);

  FakeRequest inquiry({kInquiry, 0, 0, 0, 36}, 36);
  CHECK(f.outcome_of(inquiry, absent).transferred == 36);
  CHECK(bytes(inquiry, 5) == std::vector<uint8_t>{0x7f, 0, 6, 0x12, 31});
  FakeRequest pages({kInquiry, 1, 0, 0, 255}, 255);
  CHECK(f.outcome_of(pages, absent).transferred == 5);
  CHECK(bytes(pages, 5) == std::vector<uint8_t>{0x7f, 0, 0, 1, 0});
  CHECK(f.outcome_of(FakeRequest({kInquiry, 1, 0x83, 0, 36}, 36), absent).sense ==
        sense::kInvalidField);
  CHECK(f.outcome_of(FakeRequest({kInquiry, 0, 1, 0, 36}, 36), absent).sense ==
        sense::kInvalidField);
  CHECK(f.outcome_of(FakeRequest({kInquiry, 0, 0, 0, 36}, 35), absent).end == End::kOverrun);
  CHECK(f.outcome_of(FakeRequest({kInquiry, 0, 0, 0, 0}), absent).transferred == 0);

  FakeRequest sense({kRequestSense, 0, 0, 0, 18}, 18);
  CHECK(f.outcome_of(sense, absent).status == ScsiStatus::kGood);
  CHECK(bytes(sense, 3) == std::vector<uint8_t>{0x70, 0, 5});
  CHECK(bytes(sense, 13)[12] == 0x25);
}

TEST_CASE("ScsiBus: REPORT LUNS lists the units of the target, wherever it is sent", "[scsi]") {
  Fixture f;
  for (const int lun : {300, 0, 7, 255, 256, 16383}) f.add(static_cast<uint16_t>(lun));
  f.add(1, 1);
  const std::vector<unsigned> units{0, 7, 255, 0x4100, 0x412c, 0x7fff};
  CHECK(report_luns(f) == units);
  CHECK(report_luns(f, 0, {.lun = 9}) == units);
  CHECK(report_luns(f, 0, {.lun = 0xc101}) == units);
  CHECK(report_luns(f, 1) == std::vector<unsigned>{0xc101});
  auto all = units;
  all.push_back(0xc101);
  CHECK(report_luns(f, 2) == all);
  CHECK(report_luns(f, 0, {.target = 1}) == std::vector<unsigned>{1});

  const auto ends = [&](std::initializer_list<uint8_t> cdb, size_t bytes) {
    return f.outcome_of(FakeRequest(cdb, bytes));
  };
  CHECK(ends({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 15}, 16).sense == sense::kInvalidField);
  CHECK(ends({kReportLuns, 0, 3, 0, 0, 0, 0, 0, 0, 16}, 16).sense == sense::kInvalidField);
  CHECK(ends({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 17}, 16).end == End::kOverrun);
  // What there is no room for is left out; the length says what there is.
  FakeRequest cut({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 16}, 16);
  CHECK(f.outcome_of(cut).transferred == 16);
  CHECK(bytes(cut, 4) == std::vector<uint8_t>{0, 0, 0, 48});
}

TEST_CASE("ScsiBus: the well-known unit knows what it has to", "[scsi]") {
  Fixture f;
  f.add(0);
  const ScsiAddress known{.lun = 0xc101};
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), known).status == ScsiStatus::kGood);
  FakeRequest inquiry({kInquiry, 0, 0, 0, 36}, 36);
  CHECK(f.outcome_of(inquiry, known).transferred == 36);
  CHECK(bytes(inquiry, 1)[0] == 0x1e);
  FakeRequest sense({kRequestSense, 1, 0, 0, 252}, 252);
  CHECK(f.outcome_of(sense, known).transferred == 8);
  CHECK(bytes(sense, 2) == std::vector<uint8_t>{0x72, 0});
  CHECK(f.outcome_of(FakeRequest({0x28}), known).sense == sense::kInvalidOpcode);
  // It has told nothing of the unit's.
  CHECK(f.next_attention() == sense::kPowerOn);
}

TEST_CASE("ScsiBus: a unit tells its attentions before it carries out a command", "[scsi]") {
  Fixture f;
  FakeUnit& unit = f.add(0);
  // These tell nothing.
  for (const uint8_t opcode : {kInquiry, uint8_t{0x46}, uint8_t{0x4a}}) {
    CHECK(f.outcome_of(FakeRequest({opcode})).status == ScsiStatus::kGood);
  }
  report_luns(f);
  CHECK(unit.executed == 3);
  CHECK(f.next_attention() == sense::kPowerOn);
  CHECK(unit.executed == 3);
  CHECK(f.next_attention() == sense::kNone);
  CHECK(unit.executed == 4);
  unit.attention(sense::kCapacityChanged);
  unit.attention(sense::kCapacityChanged);
  CHECK(f.listener.seen == std::vector<std::string>{"+0", "!0", "!0"});
  // As data it is told as well, and then no more.
  FakeRequest sense({kRequestSense, 0, 0, 0, 18}, 18);
  CHECK(f.outcome_of(sense).status == ScsiStatus::kGood);
  CHECK(bytes(sense, 3)[2] == 6);
  CHECK(bytes(sense, 13)[12] == 0x2a);
  CHECK(f.outcome_of(sense).status == ScsiStatus::kGood);
  CHECK(bytes(sense, 3)[2] == 0);
  CHECK(f.next_attention() == sense::kNone);
  // A REQUEST SENSE that has no room tells nothing.
  unit.attention(sense::kMediumChanged);
  CHECK(f.outcome_of(FakeRequest({kRequestSense, 0, 0, 0, 18}, 17)).end == End::kOverrun);
  CHECK(f.next_attention() == sense::kMediumChanged);
}

TEST_CASE("ScsiBus: the list of LUNs has changed for whoever has read it", "[scsi]") {
  Fixture f;
  FakeUnit& first = f.add_ready(0);
  f.add_ready(0, 1);
  f.add_ready(1);
  CHECK(f.next_attention() == sense::kNone);  // nobody has read it
  report_luns(f);
  FakeUnit& second = f.add_ready(2);
  CHECK(f.next_attention({.target = 1}) == sense::kNone);
  CHECK(f.next_attention({.lun = 1}) == sense::kLunsChanged);
  CHECK(f.next_attention({.lun = 1}) == sense::kNone);
  report_luns(f, 0, {.lun = 1});
  CHECK(f.next_attention() == sense::kNone);  // told by REPORT LUNS, of whatever unit
  REQUIRE(f.remove(second).has_value());
  CHECK(f.next_attention() == sense::kLunsChanged);
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), {.lun = 2}).sense == sense::kLunNotSupported);
  // A driver that comes has read nothing.
  f.bus().reset();
  CHECK(first.resets == 1);
  CHECK(f.next_attention() == sense::kBusReset);
  f.add(2);
  CHECK(f.next_attention() == sense::kNone);
}
