#include "vmm/qmp/schema.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

using namespace rhea::vmm;

namespace {

constexpr auto kOptional = QmpPresence::kOptional;

QmpCommandTable table_of(std::vector<QmpCommand> commands) {
  QmpCommandTable table;
  for (QmpCommand& command : commands) table.add(std::move(command));
  return table;
}

QmpResult nothing(const Json&) { return qmp_done(); }

ReplyJson entry(const ReplyJson& schema, const std::string& name) {
  const auto at = std::ranges::find_if(schema, [&](const auto& e) { return e["name"] == name; });
  return at != schema.end() ? *at : ReplyJson();
}

}  // namespace

TEST_CASE("qmp_schema: without anything there is the empty object and what is built in", "[qmp]") {
  const ReplyJson schema = qmp_schema({}, {});
  CHECK(entry(schema, "0").dump() == R"({"name":"0","members":[],"meta-type":"object"})");
  CHECK(entry(schema, "str").dump() ==
        R"({"name":"str","json-type":"string","meta-type":"builtin"})");
  CHECK(schema.size() == 6);
}

TEST_CASE("qmp_schema: arguments become members, and what is alike is one type", "[qmp]") {
  const std::vector<QmpArgument> arguments{{"id", QmpType::kString},
                                           {"count", QmpType::kInteger, kOptional},
                                           {"list", QmpType::kArray, kOptional},
                                           {"any", QmpType::kObject}};
  const auto table = table_of(
      {{"b", arguments, nothing},
       {"a", {}, nothing},
       {.name = "c", .arguments = arguments, .handler = nothing, .features = {"deprecated"}}});
  const ReplyJson schema = qmp_schema(table, {});
  CHECK(schema[0].dump() ==
        R"({"name":"a","ret-type":"any","meta-type":"command","arg-type":"0"})");
  CHECK(schema[1].dump() ==
        R"({"name":"b","ret-type":"any","meta-type":"command","arg-type":"1"})");
  CHECK(schema[2].dump() == R"({"name":"c","ret-type":"any","meta-type":"command","arg-type":"1",)"
                            R"("features":["deprecated"]})");
  CHECK(entry(schema, "1").dump() == R"({"name":"1","members":[{"name":"id","type":"str"},)"
                                     R"({"name":"count","default":null,"type":"int"},)"
                                     R"({"name":"list","default":null,"type":"[any]"},)"
                                     R"({"name":"any","type":"any"}],"meta-type":"object"})");
  CHECK(entry(schema, "[any]").dump() ==
        R"({"name":"[any]","element-type":"any","meta-type":"array"})");
}

TEST_CASE("qmp_schema: choices are enums, and what depends on one are variants", "[qmp]") {
  const auto table = table_of(
      {{.name = "add",
        .arguments = {{"kind", QmpType::kString, QmpPresence::kRequired, {"x", "y"}}},
        .handler = nothing,
        .variants = {.tag = "kind", .arguments = {{"x", {{"n", QmpType::kNumber}}}, {"y", {}}}}}});
  const std::vector<QmpEvent> events{{"HAPPENED", {{"on", QmpType::kBoolean}}}};
  const ReplyJson schema = qmp_schema(table, events);
  const ReplyJson add = entry(schema, entry(schema, "add")["arg-type"].get<std::string>());
  CHECK(add["tag"] == "kind");
  CHECK(add["variants"][0]["case"] == "x");
  CHECK(entry(schema, add["variants"][0]["type"])["members"][0]["type"] == "number");
  CHECK(add["variants"][1]["type"] == "0");
  CHECK(entry(schema, add["members"][0]["type"]).dump() ==
        R"({"name":"1","members":[{"name":"x"},{"name":"y"}],"meta-type":"enum",)"
        R"("values":["x","y"]})");
  CHECK(entry(schema, "HAPPENED")["meta-type"] == "event");
  CHECK(entry(schema, entry(schema, "HAPPENED")["arg-type"])["members"][0]["type"] == "bool");
}

TEST_CASE("QmpCommand: arguments beyond those declared are refused, or the handler's", "[qmp]") {
  QmpCommand command{.name = "add",
                     .arguments = {{"kind", QmpType::kString, QmpPresence::kRequired, {"x", "y"}}},
                     .handler = nothing,
                     .variants = {.tag = "kind", .arguments = {{"x", {{"n", QmpType::kNumber}}}}}};
  const auto error = [&](const char* arguments) {
    const QmpResult result = command.run(Json::parse(arguments));
    return result.has_value() ? "none" : result.error().description;
  };
  CHECK(error(R"({"kind":"x","n":1})") == "none");
  CHECK(error(R"({"kind":"x"})") == "Parameter 'n' is missing");
  CHECK(error(R"({"kind":"y"})") == "none");
  CHECK(error(R"({"kind":"y","n":1})") == "Parameter 'n' is unexpected");
  CHECK(error(R"({"kind":"z"})") == "Parameter 'kind' does not accept value 'z'");
  CHECK(error(R"({"kind":1})") == "Invalid parameter type for 'kind', expected: string");
  command.shape = QmpShape::kAny;
  CHECK(error(R"({"kind":"y","n":"whatever"})") == "none");
  CHECK(error(R"({"n":1})") == "Parameter 'kind' is missing");
}

TEST_CASE("qmp_events: an event says what it is declared to say", "[qmp]") {
  CHECK(is_declared("STOP", nullptr));
  CHECK_FALSE(is_declared("NOPE", nullptr));
  CHECK(is_declared("DEVICE_DELETED", {{"path", "/x"}}));
  CHECK_FALSE(is_declared("DEVICE_DELETED", nullptr));
  CHECK_FALSE(is_declared("DEVICE_DELETED", {{"path", "/x"}, {"more", 1}}));
  CHECK_FALSE(is_declared("DEVICE_DELETED", {{"path", 1}}));
  CHECK(std::ranges::is_sorted(qmp_events(), {}, &QmpEvent::name));
}
