#include "vmm/qmp/block_commands.h"

#include <array>
#include <catch2/catch.hpp>

#include "tests/unit/vmm/storage_fixture.h"

using namespace rhea;
using namespace rhea::vmm;
using rhea::test::StorageFixture;

namespace {

struct Row {
  const char* arguments;
  const char* description;
};

template <size_t N>
void check_errors(StorageFixture& f, std::string_view command, const Row (&rows)[N]) {
  for (const Row& row : rows) {
    INFO(row.arguments);
    CHECK(f.ask(command, row.arguments) == std::string("GenericError: ") + row.description);
  }
}

}  // namespace

TEST_CASE("blockdev-add and blockdev-del: a node comes and goes", "[blockqmp]") {
  StorageFixture f;
  CHECK(f.ask("blockdev-add", R"({"driver":"null-co","node-name":"d0","size":4096,
                                  "read-only":true,"cache":{"direct":true}})") == "{}");
  const auto nodes = f.answer("query-named-block-nodes", R"({"flat":true})");
  REQUIRE(nodes.size() == 1);
  CHECK(nodes[0]["node-name"] == "d0");
  CHECK(nodes[0]["drv"] == "null-co");
  CHECK(nodes[0]["ro"] == true);
  CHECK(nodes[0]["image"]["virtual-size"] == 4096);
  CHECK(nodes[0]["cache"]["direct"] == true);
  CHECK(nodes[0]["cache"]["no-flush"] == false);
  CHECK(f.ask("blockdev-del", R"({"node-name":"d0"})") == "{}");
  CHECK(f.ask("query-named-block-nodes") == "[]");
}

TEST_CASE("query-named-block-nodes: an entry has every member that QEMU requires", "[blockqmp]") {
  StorageFixture f("-blockdev null-co,node-name=d0,size=512");
  CHECK(f.ask("query-named-block-nodes") ==
        R"([{"file": "null-co://", "node-name": "d0", "ro": false, "drv": "null-co", )"
        R"("backing_file_depth": 0, "encrypted": false, "detect_zeroes": "off", "bps": 0, )"
        R"("bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0, "image": )"
        R"({"virtual-size": 512, "filename": "null-co://", "format": "null-co"}, "cache": )"
        R"({"writeback": true, "direct": false, "no-flush": false}, "write_threshold": 0}])");
}

TEST_CASE("blockdev-add: mistakes are named, and add nothing", "[blockqmp]") {
  StorageFixture f("-blockdev null-co,node-name=d0 -drive if=none,id=drive0");
  check_errors(
      f, "blockdev-add",
      {
          {"{}", "Parameter 'driver' is missing"},
          {R"({"driver":"null-co"})", "'node-name' must be specified for the root node"},
          {R"({"driver":"bogus","node-name":"x"})", "Unknown driver 'bogus'"},
          {R"({"driver":true,"node-name":"x"})",
           "Invalid parameter type for 'driver', expected: string"},
          {R"({"driver":"null-co","node-name":"d0"})", "Duplicate nodes with node-name='d0'"},
          {R"({"driver":"null-co","node-name":"1x"})", "Invalid node-name: '1x'"},
          {R"({"driver":"null-co","node-name":"drive0"})",
           "node-name=drive0 is conflicting with a device id"},
          {R"({"driver":"null-co","node-name":1})",
           "Invalid parameter type for 'node-name', expected: string"},
          {R"({"driver":"null-co","node-name":"x","size":"1M"})",
           "Invalid parameter type for 'size', expected: integer"},
          {R"({"driver":"null-co","node-name":"x","read-only":"on"})",
           "Invalid parameter type for 'read-only', expected: boolean"},
          {R"({"driver":"null-co","node-name":"x","cache":{"direct":1}})",
           "Invalid parameter type for 'cache.direct', expected: boolean"},
          {R"({"driver":"null-co","node-name":"x","size":null})",
           "Parameter 'size' can not be null"},
          {R"({"driver":"null-co","node-name":"x","size":1.5})",
           "Invalid parameter type for 'size', expected: integer"},
          {R"({"driver":"null-co","node-name":"x","a":{"b":[1,null]}})",
           "Parameter 'a.b[1]' can not be null"},
          {R"({"driver":"null-co","node-name":"x","bogus":1})",
           "Block format 'null-co' does not support the option 'bogus'"},
          {"{\"driver\":\"null-co\",\"node-name\":\"x\",\"a\":\"\\u0000\"}",
           "Parameter 'a' contains a zero byte"},
      });
  CHECK(f.answer("query-named-block-nodes").size() == 1);
}

TEST_CASE("blockdev-reopen: options change, and mistakes change nothing", "[blockqmp]") {
  StorageFixture f("-blockdev null-co,node-name=d0");
  CHECK(f.ask("blockdev-reopen",
              R"({"options":[{"driver":"null-co","node-name":"d0","read-only":true}]})") == "{}");
  CHECK(f.answer("query-named-block-nodes")[0]["ro"] == true);
  check_errors(
      f, "blockdev-reopen",
      {
          {R"({"options":[{"driver":"null-co"}]})", "node-name not specified"},
          {R"({"options":[{"driver":"null-co","node-name":"x"}]})",
           "Failed to find node with node-name='x'"},
          {R"({"options":{}})", "Invalid parameter type for 'options', expected: array"},
          {R"({"options":[1]})", "Invalid parameter type for 'options[0]', expected: object"},
          {R"({"options":[{"driver":"null-co","node-name":"d0"},1]})",
           "Invalid parameter type for 'options[1]', expected: object"},
          {R"({"options":[{"driver":"null-co","node-name":"d0","read-only":false},)"
           R"({"driver":"null-co","node-name":"x"}]})",
           "Failed to find node with node-name='x'"},
          {R"({"options":[{"driver":"null-co","node-name":"d0","size":512}]})",
           "Block driver 'null-co' can not change its options"},
      });
  CHECK(f.ask("blockdev-reopen", R"({"options":[]})") == "{}");
  CHECK(f.answer("query-named-block-nodes")[0]["ro"] == true);
}

TEST_CASE("block_resize: nodes and drives are found, sizes checked", "[blockqmp]") {
  StorageFixture f(
      "-blockdev null-co,node-name=d0 -drive driver=null-co,if=none,id=e0 -drive if=none,id=e1");
  CHECK(f.ask("block_resize", R"({"node-name":"d0","size":8192})") == "{}");
  CHECK(f.ask("block_resize", R"({"device":"e0","size":1024})") == "{}");
  CHECK(f.graph().find(f.gs(), "d0")->length() == 8192);
  CHECK(f.answer("query-block")[0]["inserted"]["image"]["virtual-size"] == 1024);
  check_errors(f, "block_resize",
               {
                   {R"({"node-name":"d0"})", "Parameter 'size' is missing"},
                   {R"({"node-name":"d0","size":-1})", "Parameter 'size' expects a >0 size"},
                   {R"({"node-name":"d0","size":9223372036854775808})",
                    "Parameter 'size' expects a >0 size"},
                   {R"({"node-name":"x","size":1})", "Cannot find device='' nor node-name='x'"},
                   {R"({"device":"x","size":1})", "Cannot find device='x' nor node-name=''"},
                   {R"({"size":1})", "Cannot find device='' nor node-name=''"},
                   {R"({"device":"e1","size":1})", "Device 'e1' has no medium"},
               });
}

TEST_CASE("query-block: drives show with and without a medium", "[blockqmp]") {
  StorageFixture f("-drive driver=null-co,if=none,id=e0,cache=writethrough -drive if=none,id=e1");
  const auto list = f.answer("query-block");
  REQUIRE(list.size() == 2);
  CHECK(list[0]["device"] == "e0");
  CHECK(list[0]["inserted"]["cache"]["writeback"] == false);
  CHECK_FALSE(list[0].contains("io-status"));
  CHECK_FALSE(list[0].contains("qdev"));
  CHECK(list[1].dump() == R"({"device":"e1","type":"unknown","removable":true,"locked":false})");
  CHECK_FALSE(f.answer("query-blockstats")[1].contains("node-name"));
}

TEST_CASE("query-blockstats: by disk and by node", "[blockqmp]") {
  StorageFixture f("-drive driver=null-co,if=none,id=e0");
  const auto stats = f.answer("query-blockstats")[0]["stats"];
  for (const char* name : {"rd_bytes",
                           "wr_bytes",
                           "unmap_bytes",
                           "rd_operations",
                           "wr_operations",
                           "flush_operations",
                           "unmap_operations",
                           "rd_total_time_ns",
                           "wr_total_time_ns",
                           "flush_total_time_ns",
                           "unmap_total_time_ns",
                           "wr_highest_offset",
                           "rd_merged",
                           "wr_merged",
                           "unmap_merged",
                           "failed_rd_operations",
                           "failed_wr_operations",
                           "failed_flush_operations",
                           "failed_unmap_operations",
                           "invalid_rd_operations",
                           "invalid_wr_operations",
                           "invalid_flush_operations",
                           "invalid_unmap_operations"}) {
    INFO(name);
    CHECK(stats[name] == 0);
  }
  CHECK(stats["account_failed"] == true);
  CHECK(stats["timed_stats"].empty());
  const auto nodes = f.answer("query-blockstats", R"({"query-nodes":true})");
  REQUIRE(nodes.size() == 1);
  CHECK_FALSE(nodes[0].contains("device"));
}

TEST_CASE("block_set_io_throttle and x-blockdev-set-iothread: what is wrong is named",
          "[blockqmp]") {
  StorageFixture f("-object iothread,id=iot0 -blockdev null-co,node-name=d0 -drive if=none,id=e1");
  constexpr std::string_view kNone =
      R"("bps":0,"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":0,"iops_wr":0})";
  const auto throttle = [&](std::string_view who) {
    return f.ask("block_set_io_throttle", fmt::format("{{{}{}", who, kNone));
  };
  CHECK(throttle("") == "GenericError: Need exactly one of 'device' and 'id'");
  CHECK(throttle(R"("device":"x",)") == "DeviceNotFound: Device 'x' not found");
  CHECK(throttle(R"("id":"x",)") == "DeviceNotFound: Device 'x' not found");
  CHECK(throttle(R"("device":"e1",)") == "GenericError: Device 'e1' has no medium");
  CHECK(f.ask("block_set_io_throttle", R"({"id":"x"})") ==
        "GenericError: Parameter 'bps' is missing");
  const auto move = [&](std::string_view arguments) {
    return f.ask("x-blockdev-set-iothread", arguments);
  };
  CHECK(move(R"({"node-name":"d0","iothread":"iot0"})") == "{}");
  CHECK(move(R"({"node-name":"d0","iothread":null})") == "{}");
  CHECK(move(R"({"node-name":"d0","iothread":"x"})") == "GenericError: Cannot find iothread x");
  CHECK(move(R"({"node-name":"x","iothread":null})") ==
        "GenericError: Failed to find node with node-name='x'");
  CHECK(move(R"({"node-name":"d0","iothread":1})") ==
        "GenericError: Invalid parameter type for 'iothread', expected: StrOrNull");
}

TEST_CASE("Storage: what can not be made is told with its option", "[blockqmp]") {
  StorageFixture f("-blockdev null-co,node-name=d0");
  CHECK(f.error_of_assembling("-blockdev null-co,node-name=d0") ==
        "-blockdev null-co,node-name=d0: Duplicate nodes with node-name='d0'");
  CHECK(f.error_of_assembling("-blockdev null-co") ==
        "-blockdev null-co: 'node-name' must be specified for the root node");
  CHECK(f.error_of_assembling("-drive driver=null-co,if=none,id=d0") ==
        "-drive driver=null-co,if=none,id=d0: Device name 'd0' conflicts with an existing node "
        "name");
  CHECK(f.error_of_assembling("-drive driver=null-co,if=none,forma=1") ==
        "-drive driver=null-co,if=none,forma=1: Block format 'null-co' does not support the "
        "option 'forma'");
  CHECK(f.error_of_assembling("-object iothread,id=a,bogus=1") ==
        "-object iothread,id=a,bogus=1: Invalid parameter 'bogus'");
}

TEST_CASE("x-blkdebug-suspended and x-blkdebug-resume: a held request is counted and let go",
          "[blockqmp]") {
  StorageFixture f(
      "-blockdev blkdebug,node-name=d0,image.driver=null-co,inject-error.0.event=read_aio,"
      "inject-error.0.suspend=A -blockdev null-co,node-name=d1");
  const std::string a = R"({"node-name":"d0","tag":"A"})";
  CHECK(f.ask("x-blkdebug-suspended", a) == R"({"requests": 0})");
  CHECK(f.ask("x-blkdebug-resume", a) == R"({"requests": 0})");
  block::Node& node = *f.graph().find(f.gs(), "d0");
  std::array<std::byte, 512> data;
  const iovec piece{data.data(), data.size()};
  bool done = false;
  const auto read = [&](Co& co) {
    const block::GraphReadGuard reading(co);
    done = node.co_read(co, 0, block::IoVector::of(std::span(&piece, 1))).has_value();
  };
  REQUIRE(spawn(f.loop().block(), read).has_value());
  const auto until = [&](auto&& condition) {
    return f.loop().waiter().until(f.gs(), condition, std::chrono::seconds(120));
  };
  REQUIRE(until([&] { return f.ask("x-blkdebug-suspended", a) == R"({"requests": 1})"; }));
  CHECK(f.ask("x-blkdebug-resume", R"({"node-name":"d0","tag":"B"})") == R"({"requests": 0})");
  CHECK(f.ask("x-blkdebug-resume", a) == R"({"requests": 1})");
  REQUIRE(until([&] { return done; }));
  const Row rows[] = {
      {R"({"node-name":"d1","tag":"A"})", "Node 'd1' is not a blkdebug node"},
      {R"({"node-name":"d2","tag":"A"})", "Failed to find node with node-name='d2'"}};
  check_errors(f, "x-blkdebug-resume", rows);
  check_errors(f, "x-blkdebug-suspended", rows);
}
