#include "vmm/object_table.h"

#include <catch2/catch.hpp>

#include "tests/unit/vmm/storage_fixture.h"
#include "vmm/iothread_object.h"

using namespace rhea;
using namespace rhea::vmm;
using rhea::test::StorageFixture;

namespace {

IoThreadObject& iothread(StorageFixture& f, std::string_view id) {
  return dynamic_cast<IoThreadObject&>(*f.storage().objects().find(id)->object);
}

}  // namespace

TEST_CASE("ObjectTable: iothreads of the command line and of object-add are alike", "[objects]") {
  StorageFixture f("-object iothread,id=iot0,poll-max-ns=1000,poll-grow=3");
  CHECK(f.ask("object-add", R"({"qom-type":"iothread","id":"iot1","poll-shrink":2})") == "{}");
  const auto list = f.answer("query-iothreads");
  REQUIRE(list.size() == 2);
  CHECK(list[0]["id"] == "iot0");
  CHECK(list[0]["thread-id"] == iothread(f, "iot0").thread_id());
  CHECK(list[0]["poll-max-ns"] == 1000);
  CHECK(list[0]["poll-grow"] == 3);
  CHECK(list[0]["poll-shrink"] == 0);
  CHECK(list[0]["aio-max-batch"] == 0);
  CHECK(list[1]["poll-max-ns"] == 32768);
  CHECK(list[1]["poll-shrink"] == 2);
  CHECK(f.ask("object-del", R"({"id":"iot0"})") == "{}");
  CHECK(f.answer("query-iothreads").size() == 1);
  CHECK(f.ask("object-add", R"({"qom-type":"iothread","id":"iot0"})") == "{}");
}

TEST_CASE("ObjectTable: an object in use is not deleted, and the user is named", "[objects]") {
  StorageFixture f("-object iothread,id=iot0");
  {
    const IoThreadUse first(iothread(f, "iot0"), "device 'vd0'");
    IoThreadUse second(iothread(f, "iot0"), "device 'vd1'");
    const IoThreadUse moved(std::move(second));
    CHECK(f.ask("object-del", R"({"id":"iot0"})") ==
          "GenericError: object 'iot0' is in use, can not be deleted: device 'vd0' uses it");
  }
  CHECK(f.ask("object-del", R"({"id":"iot0"})") == "{}");
}

TEST_CASE("ObjectTable: a request runs on an iothread that the table made", "[objects]") {
  StorageFixture f("-object iothread,id=iot0 -blockdev null-co,node-name=d0,read-zeroes=on");
  block::Node& node = *f.graph().find(f.gs(), "d0");
  std::byte byte{1};
  iovec piece{.iov_base = &byte, .iov_len = 1};
  const auto read =
      f.graph().run_sync(f.gs(), iothread(f, "iot0").context(), [&](Co& co) -> Result<void> {
        block::GraphReadGuard reading(co);
        return node.co_read(co, 0, block::IoVector::of(std::span(&piece, 1)));
      });
  CHECK(read.has_value());
  CHECK(byte == std::byte{0});
}

TEST_CASE("object-add: mistakes are named as QEMU does, and make nothing", "[objects]") {
  StorageFixture f("-object iothread,id=iot0 -object secret,id=s,data=x");
  const struct {
    const char* arguments;
    const char* answer;
  } rows[] = {
      {R"({"qom-type":"iothread","id":"iot0"})", "Duplicate ID 'iot0' for object"},
      {R"({"qom-type":"iothread","id":"s"})", "Duplicate ID 's' for object"},
      {R"({"qom-type":"bogus","id":"a"})", "Parameter 'qom-type' does not accept value 'bogus'"},
      {R"({"qom-type":"iothread"})", "Parameter 'id' is missing"},
      {R"({"id":"a"})", "Parameter 'qom-type' is missing"},
      {R"({"qom-type":1,"id":"a"})", "Invalid parameter type for 'qom-type', expected: string"},
      {R"({"qom-type":"iothread","id":"1a"})", "Parameter 'id' expects an identifier"},
      {R"({"qom-type":"iothread","id":"a","bogus":1})", "Parameter 'bogus' is unexpected"},
      {R"({"qom-type":"iothread","id":"a","poll-max-ns":"5"})",
       "Invalid parameter type for 'poll-max-ns', expected: integer"},
      {R"({"qom-type":"iothread","id":"a","poll-max-ns":18446744073709551615})",
       "Parameter 'poll-max-ns' expects a value between 0 and 9223372036854775807"},
  };
  for (const auto& row : rows) {
    INFO(row.arguments);
    CHECK(f.ask("object-add", row.arguments) == std::string("GenericError: ") + row.answer);
  }
  CHECK(f.storage().objects().entries().size() == 1);
  CHECK(f.ask("object-del", R"({"id":"nope"})") == "GenericError: object 'nope' not found");
}

TEST_CASE("qom-get and qom-set: properties of objects are read and changed", "[objects]") {
  StorageFixture f("-object iothread,id=iot0");
  CHECK(f.ask("qom-get", R"({"path":"/objects/iot0","property":"poll-max-ns"})") == "32768");
  CHECK(f.ask("qom-set", R"({"path":"/objects/iot0","property":"poll-max-ns","value":17})") ==
        "{}");
  CHECK(f.ask("qom-get", R"({"path":"iot0","property":"poll-max-ns"})") == "17");
  CHECK(f.ask("qom-get", R"({"path":"iot0","property":"type"})") == "\"iothread\"");
  CHECK(f.ask("qom-get", R"({"path":"/objects/x","property":"type"})") ==
        "DeviceNotFound: Device '/objects/x' not found");
  CHECK(f.ask("qom-get", R"({"path":"iot0","property":"bogus"})") ==
        "GenericError: Property 'iothread.bogus' not found");
  CHECK(f.ask("qom-set", R"({"path":"iot0","property":"bogus","value":1})") ==
        "GenericError: Property 'iothread.bogus' not found");
  CHECK(f.ask("qom-set", R"({"path":"iot0","property":"poll-grow","value":-1})") ==
        "GenericError: poll-grow value must be in range [0, 9223372036854775807]");
  CHECK(f.ask("qom-set", R"({"path":"iot0","property":"poll-grow","value":"1"})") ==
        "GenericError: Invalid parameter type for 'poll-grow', expected: integer");
  CHECK(f.ask("qom-get", R"({"path":"iot0","property":"poll-grow"})") == "0");
}

TEST_CASE("ObjectTable: a throttle group's limits are read, changed and checked", "[objects]") {
  StorageFixture f("-object throttle-group,id=tg0,limits.iops-total=100");
  CHECK(f.ask("blockdev-add", R"({"driver":"throttle","node-name":"t0","throttle-group":"tg0",
                                  "file":{"driver":"null-co"}})") == "{}");
  const auto limits = [&] {
    return f.answer("qom-get", R"({"path":"/objects/tg0","property":"limits"})");
  };
  const auto set = [&](std::string_view value) {
    return f.ask("qom-set",
                 fmt::format(R"({{"path":"tg0","property":"limits","value":{}}})", value));
  };
  CHECK(limits()["iops-total"] == 100);
  CHECK(limits()["iops-total-max-length"] == 1);
  CHECK(limits()["iops-size"] == 0);
  CHECK(set(R"({"iops-total":5,"iops-size":4096})") == "{}");
  CHECK(limits()["iops-total"] == 5);
  CHECK(set(R"({"iops-read":3})") ==
        "GenericError: bps/iops/max total values and read/write values cannot be used at the same "
        "time");
  CHECK(set(R"({"bogus":3})") != "{}");
  CHECK(set("1") == "GenericError: Invalid parameter type for 'limits', expected: object");
  CHECK(limits()["iops-size"] == 4096);
  CHECK_THAT(f.ask("object-del", R"({"id":"tg0"})"),
             Catch::Contains("object 'tg0' is in use, can not be deleted"));
  CHECK(f.ask("blockdev-del", R"({"node-name":"t0"})") == "{}");
  CHECK(f.ask("object-del", R"({"id":"tg0"})") == "{}");
  CHECK(f.ask("object-add", R"({"qom-type":"throttle-group","id":"tg0",
                                "limits":{"bps-total":-1}})") != "{}");
  CHECK(f.ask("object-add", R"({"qom-type":"throttle-group","id":"tg0"})") == "{}");
}
