// Source and Target: a machine moves, or stays, whatever happens.
#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/sync_action.h"
#include "tests/unit/migration/engine_fixture.h"

using namespace rhea;
using namespace rhea::migration;
using rhea::migration::test::EngineFixture;
using Strings = std::vector<std::string>;

namespace {

bool has(const Strings& log, const std::string& call) {
  return std::ranges::find(log, call) != log.end();
}

/// Nothing is lost: the source runs as before and holds its locks.
void check_stayed(EngineFixture& f) {
  CHECK(f.source.runs);
  CHECK_FALSE(f.source.left);
  CHECK_FALSE(f.target.runs);
  CHECK(f.outside.lock_holder == "source");
  CHECK_FALSE(f.outside.both_ran);
  CHECK_FALSE(memory::topology.dirty_logging());
}

void check_moved(EngineFixture& f) {
  CHECK(f.source.left);
  CHECK_FALSE(f.source.runs);
  CHECK(f.target.runs);
  CHECK(f.outside.lock_holder == "target");
  CHECK_FALSE(f.outside.both_ran);
  CHECK(f.same_ram());
  CHECK(f.target.devices == f.source.devices);
  CHECK_FALSE(memory::topology.dirty_logging());
}

}  // namespace

TEST_CASE("Migration: a machine moves with its RAM, its devices and its locks", "[migration]") {
  EngineFixture f;
  f.source_options.ram.checksum = GENERATE(PageChecksum::kNo, PageChecksum::kYes);
  f.source.devices["disk"] = "disk has done much";
  f.run();
  check_moved(f);
  CHECK(f.source_events == Strings{"setup", "pass 1", "active", "pass 2", "completed"});
  CHECK(f.target_events == Strings{"active", "completed"});
  CHECK(f.arrival == TargetState::kRunning);
  CHECK(f.source.log == Strings{"manifest", "log", "stop", "save", "unlog", "unlock", "leave"});
  CHECK(f.target.log == Strings{"manifest", "load", "lock", "run"});
  const Progress p = f.progress();
  CHECK(p.normal_pages == 800);
  CHECK(p.zero_pages == 400);
  CHECK(p.transferred_bytes > 800 * 4096);
  CHECK(p.ram_bytes == 1200 * 4096);
  CHECK(p.remaining_pages == 0);
  CHECK(p.downtime);
  CHECK(*p.downtime <= p.total);
  CHECK(p.phases.passes.size() == 1);
}

TEST_CASE("Migration: the downtime is all of its phases", "[migration]") {
  EngineFixture f;
  f.source_options.ram.channels = GENERATE(0U, 2U);
  f.run();
  const Progress p = f.progress();
  const Phases& t = p.phases;
  CHECK(p.downtime == t.stop + t.last_copy + t.device_state + t.load + t.resume);
}

TEST_CASE("Migration: RAM goes over channels beside the connection", "[migration]") {
  EngineFixture f;
  f.source_options.ram.channels = GENERATE(1U, 2U, 4U, 255U);
  f.source_options.ram.checksum = PageChecksum::kYes;
  f.source_options.ram.compression =
      GENERATE(PacketOptions::Compression::kNone, PacketOptions::Compression::kZstd);
  f.on_pass = [&](uint64_t) { f.source.write(7, 7); };
  f.run();
  check_moved(f);
  const Progress p = f.progress();
  CHECK(p.normal_pages + p.zero_pages == 1201);  // one of them twice
  CHECK(p.transferred_bytes > 100'000);
  CHECK(p.channel_bytes.size() == f.source_options.ram.channels);
  CHECK(std::ranges::all_of(p.channel_bytes, [](uint64_t bytes) { return bytes != 0; }));
  CHECK(std::accumulate(p.channel_bytes.begin(), p.channel_bytes.end(), p.main_bytes) ==
        p.transferred_bytes);
  CHECK(p.main_bytes < 4096);  // no page
}

TEST_CASE("Migration: a file is one connection", "[migration]") {
  EngineFixture f;
  f.source_options.ram.channels = 2;
  f.send("file:" + f.file("machine"));
  f.finish();
  check_stayed(f);
  CHECK(f.error() == "'file:" + f.file("machine") + "' is one connection, and cannot be 3");
}

TEST_CASE("Migration: a stranger's connection is sent away", "[migration]") {
  EngineFixture f;
  f.source_options.ram.channels = 2;
  std::vector<std::unique_ptr<Channel>> strangers;
  f.target.hook = [&](const std::string& call) {
    if (call != "manifest") return;  // before the channels are asked for
    for (int i = 0; i < 2; ++i) {
      strangers.push_back(f.connect_to_target());
      if (i == 0) strangers.back()->shutdown();  // gone; the other one talks
    }
    const std::string words = "GET / HTTP/1.1\r\n" + std::string(64, 'x');
    CHECK(strangers.back()->write(std::as_bytes(std::span(words))));
  };
  f.run();
  check_moved(f);
}

TEST_CASE("Migration: a channel that breaks ends it on both sides", "[migration]") {
  EngineFixture f;
  f.source_options.ram.channels = 2;
  SECTION("cancelled") {
    const rhea::test::SyncAction cancel("multifd sender: before a job's post", [&] {
      f.post([&] {
        bql.assert_held();
        f.leaving().cancel();
      });
    });
    f.run();
    CHECK(f.source_events.back() == "cancelled");
  }
  SECTION("the destination dies") {
    const rhea::test::SyncAction kill("multifd sender: before a sync packet",
                                      [&] { f.post([&] { f.kill_target(); }); });
    f.run();
    CHECK(f.source_events.back() == "failed");
  }
  SECTION("what it carries is broken") {
    f.target.shrink_rom();
    f.run();
    CHECK(f.source_events.back() == "failed");
    CHECK_THAT(f.error(), Catch::Contains("The destination gives up") &&
                              Catch::Contains("of RAM block 1, which has 1"));
  }
  check_stayed(f);
  CHECK(f.arrival == TargetState::kGone);
}

TEST_CASE("Migration: what is written meanwhile travels too", "[migration]") {
  EngineFixture f;
  f.on_pass = [&](uint64_t) {
    for (uint64_t page = 0; page < 50; ++page) f.source.write(page * 7, page);
  };
  f.run();
  check_moved(f);
}

TEST_CASE("Migration: what devices write into RAM as they are saved travels too", "[migration]") {
  EngineFixture f;
  f.source.hook = [&](const std::string& call) {
    if (call == "save") f.source.write(3, 0x5a5ed);
  };
  f.run();
  check_moved(f);
}

TEST_CASE("Migration: a machine that was paused arrives paused, and takes no locks",
          "[migration]") {
  EngineFixture f;
  SECTION("paused there") { f.source.kill(), f.outside.lock_holder = "source"; }
  SECTION("not to run here") { f.target.autostart = false; }
  f.run();
  CHECK(f.source.left);
  CHECK(f.arrival == TargetState::kArrived);
  CHECK_FALSE(f.target.runs);
  CHECK(f.outside.lock_holder.empty());
  CHECK(f.source_events.back() == "completed");
  CHECK(f.target_events.back() == "completed");
  CHECK(f.same_ram());
}

TEST_CASE("Migration: late-block-activate takes the locks when it runs", "[migration]") {
  EngineFixture f;
  f.target_options.late_block_activate = true;
  bool left_first = false;
  f.target.hook = [&](const std::string& call) {
    if (call == "lock") left_first = f.source.left;
  };
  f.run();
  check_moved(f);
  CHECK(left_first);
}

TEST_CASE("Migration: another machine is refused before anything stops", "[migration]") {
  EngineFixture f;
  f.target.info.ram[0].size_bytes *= 2;
  f.run();
  check_stayed(f);
  CHECK_FALSE(has(f.source.log, "stop"));
  CHECK(f.source_events == Strings{"setup", "failed"});
  CHECK(f.error() ==
        "The destination refuses the machine: Size mismatch: ram: 0x258000 != 0x4b0000");
  CHECK(f.arrival == TargetState::kGone);
  CHECK(f.target_events == Strings{"failed"});
}

TEST_CASE("Migration: nobody there, and what is said", "[migration]") {
  EngineFixture f;
  f.send("unix:" + f.file("nobody"));
  f.finish();
  check_stayed(f);
  CHECK(f.source_events == Strings{"setup", "failed"});
  CHECK(f.error() == "Failed to connect to '" + f.file("nobody") + "': No such file or directory");
}

TEST_CASE("Migration: what fails on one side is named on the other, and nothing is lost",
          "[migration]") {
  const auto [side, call, expected] = GENERATE(table<std::string, std::string, std::string>({
      {"source", "log", "no room for it"},
      {"source", "stop", "no room for it"},
      {"source", "save", "no room for it"},
      {"target", "load", "The destination gives up: no room for it"},
      {"target", "lock", "The destination gives up: no room for it"},
  }));
  INFO(side << " " << call);
  EngineFixture f;
  f.source_options.farewell_patience = std::chrono::minutes(2);  // it reads, but perhaps not soon
  auto& machine = side == "source" ? f.source : f.target;
  machine.failures.emplace(call, Error(ErrorKind::kInvalidArgument, "no room for it"));
  std::string told;
  f.source.hook = [&](const std::string& now) {
    if (now == "resume") told = f.source_events.back();
  };
  f.run();
  check_stayed(f);
  CHECK(f.error() == expected);
  CHECK(f.source_events.back() == "failed");
  CHECK(f.arrival == TargetState::kGone);
  CHECK(f.arrival_error ==
        (side == "source" ? "The source gives up: no room for it" : "no room for it"));
  if (call != "log" && call != "stop") CHECK(told == "failed");  // it was stopped: first that
}

TEST_CASE("Migration: cancelled wherever it is, and begun again", "[migration]") {
  const std::string at = GENERATE("manifest", "log", "stop", "save", "unlock", "pass 1", "pass 2");
  INFO(at);
  EngineFixture f;
  const auto cancel_at = [&](const std::string& where) {
    bql.assert_held();
    if (where == at && has(f.source_events, "setup")) f.leaving().cancel();
  };
  if (at == "manifest") {
    f.target.hook = cancel_at;  // before the answer
  } else {
    f.source.hook = cancel_at;
  }
  f.on_pass = [&](uint64_t number) { cancel_at(fmt::format("pass {}", number)); };
  f.run();
  check_stayed(f);
  CHECK(f.source_events.back() == "cancelled");
  CHECK(has(f.source_events, "cancelling"));
  CHECK_FALSE(f.progress().error);
  CHECK(f.arrival == TargetState::kGone);
}

TEST_CASE("Migration: what comes too late to cancel goes through", "[migration]") {
  EngineFixture f;
  f.source.hook = [&](const std::string& call) {
    bql.assert_held();
    if (call == "leave") f.leaving().cancel();
  };
  f.run();
  CHECK(f.source.left);
  CHECK_FALSE(f.source.runs);
  CHECK_FALSE(f.outside.both_ran);
  CHECK(f.source_events.back() == "completed");
  CHECK(f.arrival == TargetState::kRunning);
}

TEST_CASE("Migration: a destination that dies loses nothing before it has agreed", "[migration]") {
  const std::string at = GENERATE("pass 1", "stop", "save", "unlock");
  INFO(at);
  EngineFixture f;
  const auto kill_at = [&](const std::string& where) {
    if (where == at) f.kill_target();
  };
  f.source.hook = kill_at;
  f.on_pass = [&](uint64_t number) { kill_at(fmt::format("pass {}", number)); };
  f.run();
  check_stayed(f);
  CHECK(f.source_events.back() == "failed");
  CHECK_FALSE(f.error().empty());
}

TEST_CASE("Migration: a link that breaks ends as the tables say", "[migration]") {
  const auto [side, call, runs] = GENERATE(table<std::string, std::string, std::string>({
      {"source", "log", "source"},
      {"source", "stop", "source"},
      {"source", "save", "source"},
      {"source", "unlock", "source"},
      {"target", "load", "source"},
      {"target", "lock", "source"},
      {"source", "leave", "nobody"},  // GO is lost: a person decides
  }));
  INFO(side << " " << call);
  EngineFixture f;
  auto& machine = side == "source" ? f.source : f.target;
  machine.hook = [&, at = call](const std::string& now) {
    if (now == at) f.cut();
  };
  f.run();
  if (runs == "source") return check_stayed(f);
  CHECK(f.source.left);
  CHECK_FALSE(f.source.runs);
  CHECK_FALSE(f.target.runs);
  CHECK(f.outside.lock_holder.empty());  // `cont` on either side may take them
  CHECK(f.arrival == TargetState::kUnconfirmed);
  CHECK_THAT(f.arrival_error, Catch::Contains("The hand-over was not confirmed"));
  CHECK(f.target_events.back() == "failed");
}

TEST_CASE("Migration: somebody else takes the locks in between", "[migration]") {
  EngineFixture f;
  f.source_options.retake_patience = std::chrono::milliseconds(100);
  f.target.hook = [&](const std::string& call) {
    if (call == "lock") f.outside.lock_holder = "stranger";
  };
  f.run();
  CHECK_FALSE(f.source.runs);
  CHECK_FALSE(f.source.left);
  CHECK_FALSE(f.target.runs);
  CHECK(f.arrival == TargetState::kGone);
  CHECK(f.source.log.back() == "stay");
  CHECK(f.source_events.back() == "failed");
  CHECK_THAT(f.error(), Catch::Contains("The machine stays paused, because Failed to get \"write\" "
                                        "lock on disk.img"));
}

TEST_CASE("Migration: a cancel that leaves the machine paused is a failure with a reason",
          "[migration]") {
  EngineFixture f;
  f.source_options.retake_patience = std::chrono::milliseconds(100);
  const bool stranger = GENERATE(false, true);
  f.target.hook = [&](const std::string& call) {
    bql.assert_held();
    if (call != "lock") return;
    if (stranger) f.outside.lock_holder = "stranger";
    f.leaving().cancel();
  };
  f.run();
  CHECK(f.source.runs != stranger);
  CHECK_FALSE(f.target.runs);
  CHECK(has(f.source_events, "cancelling"));
  CHECK(f.source_events.back() == (stranger ? "failed" : "cancelled"));
  if (stranger) CHECK_THAT(f.error(), Catch::Contains("The machine stays paused, because Failed"));
}

TEST_CASE("Migration: pause-before-switchover waits, and goes on when it is told", "[migration]") {
  EngineFixture f;
  f.source_options.pause_before_switchover = true;
  f.begin();
  f.turn_until([&] { return f.source_status() == Status::kPreSwitchover; });
  CHECK_FALSE(f.source.runs);
  SECTION("on") {
    MUST(f.leaving().go_on());
    f.finish();
    check_moved(f);
    CHECK(f.source_events ==
          Strings{"setup", "pass 1", "active", "pre-switchover", "device", "pass 2", "completed"});
    CHECK(f.leaving().go_on().error().message() ==
          "Migration not in expected state: pre-switchover");
  }
  SECTION("cancelled") {
    f.leaving().cancel();
    f.finish();
    check_stayed(f);
    CHECK(f.source_events.back() == "cancelled");
  }
}

TEST_CASE("Migration: to a file, and out of it again", "[migration]") {
  EngineFixture f;
  const std::string uri = "file:" + f.file("machine");
  f.send(uri);
  f.finish();
  CHECK(f.source.left);
  CHECK(f.source_events.back() == "completed");
  CHECK(f.outside.lock_holder.empty());
  f.receive_from_file(uri);
  f.finish();
  check_moved(f);
  CHECK(f.target_events == Strings{"active", "completed"});
}

TEST_CASE("Migration: whoever reads the end of a file can have the images", "[migration]") {
  EngineFixture f;
  const std::string path = f.file("machine");
  uintmax_t size = 0;
  f.source.hook = [&](const std::string& call) {
    if (call == "unlock") size = std::filesystem::file_size(path);
  };
  f.send("file:" + path);
  f.finish();
  CHECK(f.source.left);
  CHECK(size > 0);
  CHECK(size < std::filesystem::file_size(path));
}

TEST_CASE("Migration: a file that gets no end leaves the machine where it is", "[migration]") {
  EngineFixture f;
  f.source_options.retake_patience = std::chrono::milliseconds(100);
  const bool stranger = GENERATE(false, true);
  f.source.hook = [&](const std::string& call) {
    bql.assert_held();
    if (call == "unlock") f.leaving().cancel();
    if (call == "lock" && stranger) f.outside.lock_holder = "stranger";
  };
  f.send("file:" + f.file("machine"));
  f.finish();
  CHECK(f.source_events.back() == (stranger ? "failed" : "cancelled"));
  if (stranger) CHECK_THAT(f.error(), Catch::Contains("The machine stays paused, because Failed"));
  CHECK_FALSE(f.source.left);
  CHECK(f.source.runs != stranger);
  CHECK(f.outside.lock_holder == (stranger ? "stranger" : "source"));
}

TEST_CASE("Migration: a file that ends too early, or is something else, is refused",
          "[migration]") {
  EngineFixture f;
  const std::string path = f.file("machine");
  f.send("file:" + path);
  f.finish();
  const auto size = std::filesystem::file_size(path);
  SECTION("cut") {
    std::filesystem::resize_file(path, size - GENERATE(1U, 24U, 300U));
    f.receive_from_file("file:" + path);
    f.finish();
    CHECK_THAT(f.arrival_error, Catch::Contains("Unable to read from file"));
  }
  SECTION("another") {
    f.receive_from_file("file:/bin/sh");
    f.finish();
    CHECK(f.arrival_error == "Not a migration stream");
  }
  CHECK(f.arrival == TargetState::kGone);
  CHECK_FALSE(f.target.runs);
}

TEST_CASE("Migration: a guest that writes too much is waited for until the limit is raised",
          "[migration]") {
  EngineFixture f;
  f.source_options.downtime_limit = Nanoseconds(0);
  std::string stall;
  uint64_t sent = 0;
  const rhea::test::SyncAction write("Source: a pass is sent", [&] {
    if (!f.source.runs) return;
    for (uint64_t page = 0; page < f.source.kPages; ++page) f.source.write(page, sent);
    if (++sent < 4) return;
    stall = f.progress().stall;
    f.set_downtime_limit(std::chrono::seconds(10));
  });
  f.run();
  check_moved(f);
  CHECK_THAT(stall, Catch::Contains("a downtime-limit of ") && Catch::Contains("MiB/s"));
  CHECK(f.progress().passes == 5);
  CHECK(f.progress().stall.empty());
}
