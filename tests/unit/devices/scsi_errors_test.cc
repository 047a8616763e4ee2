// What units do when the host fails, when they are cancelled, and when a drain comes.
#include <catch2/catch.hpp>

#include "block/drivers/blkdebug.h"
#include "devices/scsi/scsi_hd.h"
#include "tests/unit/devices/scsi_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using test::operator+;
using test::scsi_be;
using test::scsi_cdb10;
using test::scsi_cdb16;
using test::ScsiReplied;
using test::ScsiTestRequest;
using Bytes = test::ScsiBytes;

namespace {

/// A disk of 1 MiB whose requests fail as `rule` says.
struct Hd : test::ScsiFixture<ScsiHd> {
  explicit Hd(std::string_view rule, ScsiHdConfig config = {}) {
    node = &add("driver=blkdebug,node-name=d0,discard=unmap,image.driver=null-co,image.size=1M," +
                std::string(rule));
    config.node = "d0";
    make(config);
  }
  block::Blkdebug& injector() { return dynamic_cast<block::Blkdebug&>(node->driver()); }
  block::Node* node;
};

/// A command that runs by itself.
struct Background {
  explicit Background(const Bytes& cdb) { std::ranges::copy(cdb, request.cdb.begin()); }

  template <class Fixture>
  void start(Fixture& f, AioContext& where) {
    request.waiter = &f.loop().waiter();
    out_piece = {out.data(), out.size()};
    in_piece = {in.data(), in.size()};
    request.data_out = block::IoVector::of(std::span(&out_piece, 1));
    request.data_in = block::IoVector::of(std::span(&in_piece, 1));
    MUST(spawn(where, [this, &f](Co& co) {
      outcome = f.unit->execute(co, request);
      MainWait& waiter = f.loop().waiter();
      done = true;
      waiter.kick();
    }));
  }

  ScsiTestRequest request;
  Bytes out = Bytes(4096), in = Bytes(4096);
  iovec out_piece{}, in_piece{};
  ScsiOutcome outcome{};  // once done
  std::atomic<bool> done{false};
};

ScsiHdConfig stopping() {
  ScsiHdConfig config;
  config.on_read_error = config.on_write_error = OnIoError::kStop;
  return config;
}

}  // namespace

TEST_CASE("ScsiHd: the host's errors become sense data", "[scsi][errors]") {
  struct Row {
    int error;
    ScsiSense read, write;
  };
  const auto at = [](ScsiSense sense) {
    sense.information = 5;
    return sense;
  };
  for (const Row& row : {Row{EIO, at(sense::kReadError), at(sense::kWriteError)},
                         Row{ENOMEDIUM, sense::kNoMedium, sense::kNoMedium},
                         Row{ENOSPC, sense::kSpaceAllocFailed, sense::kSpaceAllocFailed},
                         Row{EINVAL, sense::kInvalidField, sense::kInvalidField},
                         Row{EROFS, sense::kWriteProtected, sense::kWriteProtected},
                         Row{ENOMEM, sense::kTargetFailure, sense::kTargetFailure},
                         Row{EBUSY, sense::kTargetFailure, sense::kTargetFailure}}) {
    ScsiHdConfig config;
    config.on_write_error = OnIoError::kReport;
    Hd hd("inject-error.0.event=none,inject-error.0.errno=" + std::to_string(row.error), config);
    INFO(row.error);
    const ScsiReplied read = hd.run(scsi_cdb10(0x28, 0, 5, 1), 512);
    CHECK(read.failed(row.read));
    CHECK(read.outcome.transferred == 0);
    CHECK(hd.run(scsi_cdb10(0x2f, 0, 5, 1)).failed(row.read));
    CHECK(hd.run(scsi_cdb10(0x2a, 0, 5, 1), Bytes(512)).failed(row.write));
    CHECK(hd.run(scsi_cdb10(0x2e, 0, 5, 1), Bytes(512)).failed(row.write));
    CHECK(hd.run(scsi_cdb10(0x41, 0, 5, 1), Bytes(512)).failed(row.write));
    CHECK(hd.run(scsi_cdb10(0x41, 0, 5, 1), Bytes(512, 1)).failed(row.write));
    ScsiSense flushed = row.write;
    flushed.information.reset();
    CHECK(hd.run(scsi_cdb10(0x35, 0, 5, 1)).failed(flushed));
    const Bytes list = Bytes{0, 22, 0, 16, 0, 0, 0, 0} + scsi_be<8>(5) + scsi_be<4>(8) + Bytes(4);
    CHECK(hd.run(scsi_cdb10(0x42, 0, 0, 24), list).failed(row.write));
    hd.settle_services();
    CHECK(hd.errors.seen.size() == 8);
    CHECK(hd.errors.seen.at(0).device == "lun0");
    CHECK(hd.errors.seen.at(0).node == "d0");
    CHECK(hd.errors.seen.at(0).action == OnIoError::kReport);
    CHECK(hd.errors.seen.at(0).operation == IoError::Operation::kRead);
    CHECK(hd.errors.seen.at(2).operation == IoError::Operation::kWrite);
  }
}

TEST_CASE("ScsiHd: an error that is to be ignored is told, and the command is good",
          "[scsi][errors]") {
  ScsiHdConfig config;
  config.on_read_error = OnIoError::kIgnore;
  Hd hd("inject-error.0.event=read_aio", config);
  CHECK(hd.run(scsi_cdb10(0x28, 0, 5, 1), 512).good());
  hd.settle_services();
  REQUIRE(hd.errors.seen.size() == 1);
  CHECK(hd.errors.seen[0].action == OnIoError::kIgnore);
}

TEST_CASE("ScsiHd: a command that stops the machine is made again when it goes on",
          "[scsi][errors]") {
  Hd hd("inject-error.0.event=write_aio,inject-error.0.errno=28,inject-error.0.once=on");
  Background write(scsi_cdb10(0x2a, 0, 0, 1));
  write.start(hd, hd.add_thread());
  hd.turn_until([&] { return !hd.errors.seen.empty(); });
  CHECK(hd.errors.seen[0].action == OnIoError::kStop);
  CHECK(hd.errors.seen[0].os_errno == ENOSPC);
  hd.wait_until([&] { return write.request.parked == 1; });
  CHECK(write.request.unparked == 0);
  // A person may take their time, so nothing that drains waits for it.
  REQUIRE(
      hd.graph()
          .with_drained(hd.gs(), *hd.node, [](block::DrainBypass&) -> Result<void> { return ok(); })
          .has_value());
  CHECK_FALSE(write.done);
  bql.assert_held();
  hd.unit->machine_runs();
  hd.wait_until([&] { return write.done.load(); });
  CHECK(write.request.unparked == 1);
  CHECK(write.outcome.status == ScsiStatus::kGood);
  CHECK(write.outcome.transferred == 512);
}

TEST_CASE("ScsiHd: a command that waits for the machine ends once it is cancelled",
          "[scsi][errors]") {
  Hd hd("inject-error.0.event=read_aio", stopping());
  AioContext& thread = hd.add_thread();
  Background first(scsi_cdb10(0x28, 0, 0, 1)), second(scsi_cdb10(0x28, 0, 8, 1));
  first.start(hd, thread);
  second.start(hd, thread);
  hd.wait_until([&] { return first.request.parked == 1 && second.request.parked == 1; });
  hd.unit->wake_cancelled();
  second.request.cancel(ScsiOutcome::End::kAborted);
  hd.unit->wake_cancelled();
  hd.wait_until([&] { return second.done.load(); });
  CHECK(second.outcome.end == ScsiOutcome::End::kAborted);
  CHECK_FALSE(first.done);
  first.request.cancel(ScsiOutcome::End::kReset);
  hd.unit->wake_cancelled();
  hd.wait_until([&] { return first.done.load(); });
  CHECK(first.outcome.end == ScsiOutcome::End::kReset);
}

TEST_CASE("ScsiHd: a command that was cancelled before is not begun", "[scsi][errors]") {
  Hd hd("inject-error.0.event=none");
  Background write(scsi_cdb10(0x2a, 0, 0, 1));
  write.request.cancel(ScsiOutcome::End::kAborted);
  write.start(hd, hd.main());
  hd.wait_until([&] { return write.done.load(); });
  CHECK(write.outcome.end == ScsiOutcome::End::kAborted);
  hd.settle_services();
  CHECK(hd.errors.seen.empty());
}

TEST_CASE("ScsiHd: a command of many steps ends between two of them when it is cancelled",
          "[scsi][errors]") {
  struct Row {
    Bytes cdb;
    const char* event;
    Bytes out;
  };
  const Bytes two_ranges = Bytes{0, 38, 0, 32, 0, 0, 0, 0} + scsi_be<8>(0) + scsi_be<4>(8) +
                           Bytes(4) + scsi_be<8>(16) + scsi_be<4>(8) + Bytes(4);
  for (const Row& row : {Row{scsi_cdb10(0x2f, 0, 0, 2048), "read_aio", {}},
                         Row{scsi_cdb16(0x93, 0, 0, 2048), "write_aio", Bytes(512, 1)},
                         Row{scsi_cdb10(0x42, 0, 0, 40), "pdiscard", two_ranges}}) {
    INFO(row.event);
    Hd hd("inject-error.0.suspend=A,inject-error.0.event=" + std::string(row.event));
    Background command(row.cdb);
    std::ranges::copy(row.out, command.out.begin());
    command.start(hd, hd.add_thread());
    hd.wait_until([&] { return hd.injector().suspended("A") == 1; });
    command.request.cancel(ScsiOutcome::End::kAborted);
    hd.injector().resume("A");
    hd.wait_until([&] { return command.done.load(); });
    CHECK(command.outcome.end == ScsiOutcome::End::kAborted);
    CHECK(hd.injector().suspended("A") == 0);
  }
}

TEST_CASE("ScsiHd: commands run on several threads at once", "[scsi]") {
  Hd hd("inject-error.0.event=flush_to_disk,inject-error.0.errno=0");
  AioContext* threads[] = {&hd.add_thread(), &hd.add_thread()};
  const Bytes cdbs[] = {scsi_cdb10(0x28, 0, 0, 8), scsi_cdb10(0x2a, 8, 8, 8),
                        Bytes{0x1a, 0, 0x3f, 0, 255, 0}, scsi_cdb10(0x41, 0, 0, 100)};
  for (int round = 0; round < 50; ++round) {
    std::vector<std::unique_ptr<Background>> all;
    for (AioContext* thread : threads) {
      for (const Bytes& cdb : cdbs) {
        all.push_back(std::make_unique<Background>(cdb));
        all.back()->start(hd, *thread);
      }
      // One of them turns the cache off and on meanwhile.
      Bytes list(24);
      list[4] = 0x08;
      list[5] = 0x12;
      list[6] = round % 2 == 0 ? 4 : 0;
      all.push_back(std::make_unique<Background>(Bytes{0x15, 0x10, 0, 0, 24, 0}));
      std::ranges::copy(list, all.back()->out.begin());
      all.back()->start(hd, *thread);
    }
    hd.wait_until(
        [&] { return std::ranges::all_of(all, [](const auto& one) { return one->done.load(); }); });
    for (const auto& one : all) CHECK(one->outcome.status == ScsiStatus::kGood);
  }
}
