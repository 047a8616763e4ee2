// A SCSI unit without a bus: commands go to it straight, over a real graph of block nodes.
#pragma once

#include <array>
#include <catch2/catch.hpp>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/scsi/scsi_disk.h"
#include "tests/unit/block/block_fixture.h"
#include "util/mutex.h"

namespace rhea::test {

using block::test::TestDisk;
using devices::IoError;
using devices::ScsiOutcome;
using devices::ScsiSense;
using devices::ScsiStatus;

struct ScsiErrors final : devices::IoErrorSink {
  void io_error(const IoError& error) override REQUIRES(bql) { seen.push_back(error); }
  std::vector<IoError> seen;
};

/// What a bus would tell the initiator.
struct ScsiAttentions final : devices::ScsiUnitOwner {
  void attention(devices::ScsiUnit&, const ScsiSense& sense) override {
    seen.with([&](std::vector<ScsiSense>& all) { all.push_back(sense); });
  }
  /// All since the last call.
  std::vector<ScsiSense> take() {
    return seen.with([](std::vector<ScsiSense>& all) { return std::exchange(all, {}); });
  }
  Guarded<std::vector<ScsiSense>> seen;
};

struct ScsiTestRequest final : devices::ScsiRequest {
  void park() override {
    ++parked;
    if (waiter != nullptr) waiter->kick();  // who waits for it looks again
  }
  void unpark() override { ++unparked; }
  std::atomic<int> parked{0}, unparked{0};
  MainWait* waiter = nullptr;
};

/// How a command has ended, and what the initiator has got.
struct ScsiReplied {
  ScsiOutcome outcome;
  std::vector<uint8_t> in;  ///< as much as was transferred

  bool good() const {
    return outcome.end == ScsiOutcome::End::kCompleted && outcome.status == ScsiStatus::kGood;
  }
  /// Whether it was refused, or failed, just so.
  bool failed(const ScsiSense& sense) const {
    return outcome.end == ScsiOutcome::End::kCompleted &&
           outcome.status == ScsiStatus::kCheckCondition && outcome.sense == sense;
  }
  bool overran() const { return outcome.end == ScsiOutcome::End::kOverrun; }
  uint64_t be(size_t at, size_t count) const {
    REQUIRE(at + count <= in.size());
    uint64_t value = 0;
    for (size_t i = at; i < at + count; ++i) value = value << 8 | in[i];
    return value;
  }
};

using ScsiBytes = std::vector<uint8_t>;

/// Bytes of a CDB or parameter list: numbers as big endian as they are long.
template <size_t Count>
ScsiBytes scsi_be(uint64_t value) {
  ScsiBytes bytes(Count);
  for (size_t i = Count; i-- != 0; value >>= 8) bytes[i] = static_cast<uint8_t>(value);
  return bytes;
}
/// Not inline: GCC 12 sees overruns where chains of these are all known beforehand.
[[gnu::noinline]] inline ScsiBytes operator+(ScsiBytes a, const ScsiBytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
inline ScsiBytes scsi_cdb10(uint8_t opcode, uint8_t flags, uint32_t lba, uint16_t blocks) {
  return ScsiBytes{opcode, flags} + scsi_be<4>(lba) + ScsiBytes{0} + scsi_be<2>(blocks) +
         ScsiBytes{0};
}
inline ScsiBytes scsi_cdb16(uint8_t opcode, uint8_t flags, uint64_t lba, uint32_t blocks) {
  return ScsiBytes{opcode, flags} + scsi_be<8>(lba) + scsi_be<4>(blocks) + ScsiBytes{0, 0};
}

/// A unit and its initiator.
template <class Unit>
class ScsiFixture : public block::test::BlockFixture {
 public:
  using BlockFixture::BlockFixture;
  ~ScsiFixture() {
    bql.assert_held();
    if (unit) unit->unrealize();
    unit.reset();
    settle_services();
  }
  ScsiFixture(const ScsiFixture&) = delete;
  ScsiFixture& operator=(const ScsiFixture&) = delete;

  template <class Config, class... More>
  void make(Config config, More&&... more) {
    bql.assert_held();
    unit = std::make_unique<Unit>("lun0", devices::ScsiAddress{}, graph(), config, errors,
                                  std::forward<More>(more)...);
    unit->set_owner(&attentions);
    MUST(unit->realize());
  }

  /// Runs what was posted to main's service context so far.
  void settle_services() {
    bql.assert_held();
    bool passed = false;
    loop().service().post([&passed] { passed = true; });
    turn_until([&] { return passed; });
  }

  /// Carries out a command on `where`, main if it is null, and waits for its end.
  ScsiReplied run(const ScsiBytes& cdb, ScsiBytes out = {}, size_t room = 0,
                  AioContext* where = nullptr) {
    constexpr uint8_t kGuard = 0xa5;
    ScsiBytes in(room + 16, kGuard);
    ScsiTestRequest request;
    std::ranges::copy(cdb, request.cdb.begin());
    // In two pieces each, where there is enough for that.
    const auto pieces = [](uint8_t* at, size_t size) {
      const size_t first = size > 1 ? size / 3 + 1 : size;
      return std::array{iovec{at, first}, iovec{at + first, size - first}};
    };
    const auto out_pieces = pieces(out.data(), out.size());
    const auto in_pieces = pieces(in.data(), room);
    request.data_out = block::IoVector::of(out_pieces);
    request.data_in = block::IoVector::of(in_pieces);
    ScsiReplied replied;
    MUST(graph().run_sync(gs(), where != nullptr ? *where : main(), [&](Co& co) -> Result<void> {
      replied.outcome = unit->execute(co, request);
      return ok();
    }));
    CHECK(std::ranges::all_of(std::span(in).subspan(room), [](uint8_t b) { return b == kGuard; }));
    const bool reads = out.empty();
    REQUIRE(replied.outcome.transferred <= std::max(room, out.size()));
    if (reads)
      replied.in.assign(in.begin(),
                        in.begin() + static_cast<ptrdiff_t>(replied.outcome.transferred));
    return replied;
  }
  ScsiReplied run(const ScsiBytes& cdb, size_t room) { return run(cdb, {}, room); }

  ScsiErrors errors;
  ScsiAttentions attentions;
  std::unique_ptr<Unit> unit;
};

/// Bytes that show where they came from.
inline ScsiBytes scsi_pattern(size_t size, unsigned seed) {
  ScsiBytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(seed + i * 7 + (i >> 8));
  return bytes;
}

}  // namespace rhea::test
