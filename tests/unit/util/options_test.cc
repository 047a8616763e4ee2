#include "util/options.h"

#include <catch2/catch.hpp>
#include <string>

#include "util/option_reader.h"

using namespace rhea;

namespace {

/// {a=1,b={c=[2,3]}}: short enough to compare a whole tree in one line.
std::string show(const OptionTree& tree) {
  if (tree.is_string()) return tree.text();
  std::string text(1, tree.is_object() ? '{' : '[');
  for (size_t i = 0; i < tree.values().size(); ++i) {
    if (i > 0) text += ';';
    if (tree.is_object()) text += tree.keys()[i] + '=';
    text += show(tree.values()[i]);
  }
  return text + (tree.is_object() ? '}' : ']');
}

std::string parsed(std::string_view text, const OptionSyntax& syntax = {}) {
  const auto tree = parse_options(text, syntax);
  return tree ? show(*tree) : "error: " + tree.error().message();
}

OptionReader reader(std::string_view text) { return OptionReader(MUST(parse_options(text))); }

template <class T>
std::string message(const Result<T>& result) {
  return result ? "" : result.error().message();
}

}  // namespace

TEST_CASE("parse_options: key=value items keep their order", "[options]") {
  CHECK(parsed("") == "{}");
  CHECK(parsed("b=1,a=2") == "{b=1;a=2}");
  CHECK(parsed("a=") == "{a=}");
  CHECK(parsed("a=1,") == "{a=1}");
  CHECK(parsed("a==b=") == "{a==b=}");
  CHECK(parsed("_x=1,x-y.z_1=2") == "{_x=1;x-y={z_1=2}}");
}

TEST_CASE("parse_options: a doubled comma is a literal comma", "[options]") {
  CHECK(parsed("a=x,,y,b=2") == "{a=x,y;b=2}");
  CHECK(parsed("a=,,") == "{a=,}");
  CHECK(parsed("a=,,,b=1") == "{a=,;b=1}");
  CHECK(parsed("x,,y", {.implied_key = "n"}) == "{n=x,y}");
}

TEST_CASE("parse_options: the implied key names a bare first item only", "[options]") {
  const OptionSyntax type{.implied_key = "type"};
  CHECK(parsed("pc,accel=kvm", type) == "{type=pc;accel=kvm}");
  CHECK(parsed("accel=kvm", type) == "{accel=kvm}");
  CHECK(parsed("pc,kvm", type) == "error: Expected '=' after parameter 'kvm'");
  CHECK(parsed("pc,type=q35", type) == "error: Parameter 'type' is given twice");
}

TEST_CASE("parse_options: bare words are switches where an option allows them", "[options]") {
  const OptionSyntax path{.implied_key = "path", .bare_words = BareWords::kBoolean};
  CHECK(parsed("/x,server,nowait", path) == "{path=/x;server=on;wait=off}");
  CHECK(parsed("/x,no", path) == "error: Invalid parameter ''");
  CHECK(parsed("server") == "error: Expected '=' after parameter 'server'");
}

TEST_CASE("parse_options: dots nest and numbers make lists", "[options]") {
  CHECK(parsed("driver=raw,file.driver=file,file.filename=a") ==
        "{driver=raw;file={driver=file;filename=a}}");
  CHECK(parsed("a.1=y,a.0=x") == "{a=[x;y]}");
  CHECK(parsed("a.0.b=1,a.0.c=2,a.1.b=3") == "{a=[{b=1;c=2};{b=3}]}");
  CHECK(parsed("a.0.0=x") == "{a=[[x]]}");
}

TEST_CASE("parse_options: malformed key=value lists are refused by name", "[options]") {
  CHECK(parsed(",") == "error: Invalid parameter ''");
  CHECK(parsed("=1") == "error: Invalid parameter ''");
  CHECK(parsed("a b=1") == "error: Invalid parameter 'a b'");
  CHECK(parsed("a..b=1") == "error: Invalid parameter 'a..b'");
  CHECK(parsed(".a=1") == "error: Invalid parameter '.a'");
  CHECK(parsed("a.=1") == "error: Invalid parameter 'a.'");
  CHECK(parsed("0=1") == "error: Invalid parameter '0'");
  CHECK(parsed("a.00=1") == "error: Invalid parameter 'a.00'");
  CHECK(parsed("a.0=1,a.2=3") == "error: Parameter 'a.1' missing");
  CHECK(parsed("a.4294967296=1") == "error: Parameter 'a.0' missing");
  CHECK(parsed("a.0=1,a.b=3") == "error: Parameters 'a.*' used inconsistently");
  CHECK(parsed("a.b=1,a=3") == "error: Parameters 'a.*' used inconsistently");
  CHECK(parsed("a=3,a.b=1") == "error: Parameters 'a.*' used inconsistently");
  CHECK(parsed("x.a=3,x.a.b=1") == "error: Parameters 'x.a.*' used inconsistently");
  CHECK(parsed("a=1,a=1") == "error: Parameter 'a' is given twice");
  CHECK(parsed(std::string_view("a=\0", 3)) == "error: contains a zero byte");
}

TEST_CASE("parse_options: size, count and depth of a list are bounded", "[options]") {
  std::string many;
  for (size_t i = 0; i <= kMaxOptionItems; ++i) many += fmt::format("k{}=1,", i);
  CHECK(parsed(many) == "error: more than 1024 parameters");
  std::string deep = "a";
  for (size_t i = 1; i < kMaxOptionDepth; ++i) deep += ".a";
  CHECK(parse_options(deep + "=1").has_value());
  CHECK(parsed(deep + ".a=1") == "error: Invalid parameter '" + deep + ".a'");
  CHECK(parsed(std::string(kMaxOptionBytes + 1, 'a')) == "error: longer than 1048576 bytes");
}

TEST_CASE("parse_options: JSON gives the same tree as key=value", "[options]") {
  CHECK(parsed(R"({"driver":"raw","file":{"driver":"file","filename":"a,b"}})") ==
        parsed("driver=raw,file.driver=file,file.filename=a,,b"));
  CHECK(parsed(R"({"a":true,"b":false,"c":268435456,"d":-1,"e":[1,{"f":"x"}]})") ==
        "{a=on;b=off;c=268435456;d=-1;e=[1;{f=x}]}");
  CHECK(parsed("{}") == "{}");
  CHECK(parsed(R"( {"a":1})", {.implied_key = "n"}) == "{n= {\"a\":1}}");
}

TEST_CASE("parse_options: malformed JSON is refused without an exception", "[options]") {
  CHECK(parsed(R"({"a":1)") == "error: JSON parse error at byte 7");
  CHECK(parsed(R"({"a":1} x)") == "error: JSON parse error at byte 9");
  CHECK(parsed(R"({a:1})") == "error: JSON parse error at byte 2");
  CHECK(parsed("{\"a\":\"\xff\"}") == "error: JSON parse error at byte 7");
  CHECK(parsed(R"({"a":1,"a":2})") == "error: Parameter 'a' is given twice");
  CHECK(parsed(R"({"a":null})") == "error: null is not a value here");
  CHECK(parsed(R"({"a":1.5})") == "error: '1.5' is not a whole number below 2^64");
  CHECK(parsed(R"({"a":18446744073709551616})") ==
        "error: '18446744073709551616' is not a whole number below 2^64");
  CHECK(parsed(R"({"a":"\u0000"})") == "error: a string contains a zero byte");
  CHECK(message(parse_json_options("[1]")) == "a JSON object is expected");
  CHECK(message(parse_json_options("1")) == "a JSON object is expected");
  CHECK(message(parse_json_options("")) == "JSON parse error at byte 1");
}

TEST_CASE("parse_options: size, count and depth of JSON are bounded", "[options]") {
  const std::string nested = R"({"a":)" + std::string(1000000, '[');
  CHECK(parsed(nested) == "error: nested deeper than 32 levels");
  std::string many = R"({"a":[1)";
  for (size_t i = 0; i < kMaxOptionItems; ++i) many += ",1";
  CHECK(parsed(many + "]}") == "error: more than 1024 parameters");
  CHECK(message(parse_json_options(std::string(kMaxOptionBytes + 1, ' '))) ==
        "longer than 1048576 bytes");
}

TEST_CASE("OptionTree: merge replaces what was said before and keeps the rest", "[options]") {
  OptionTree tree = MUST(parse_options("a=1,b=2"));
  tree.merge(MUST(parse_options("c=3,a=4")));
  CHECK(show(tree) == "{a=4;b=2;c=3}");
}

TEST_CASE("OptionReader: typed values come out, absent ones are empty", "[options]") {
  OptionReader r = reader("s=x,b=on,n=0x10,z=1.5M,m=2,c=two,o.k=v,id=d0");
  CHECK(*MUST(r.take_string("s")) == "x");
  CHECK(*MUST(r.take_bool("b")));
  CHECK(*MUST(r.take_uint("n")) == 16);
  CHECK(*MUST(r.take_size("z")) == 1536 * 1024);
  CHECK(*MUST(r.take_size("m", 1024)) == 2048);
  constexpr std::string_view kChoices[] = {"one", "two"};
  CHECK(*MUST(r.take_choice("c", kChoices)) == 1);
  CHECK(*MUST(r.take_identifier("id")) == "d0");
  auto object = MUST(r.take_object("o"));
  REQUIRE(object.has_value());
  CHECK(MUST(object->take_required("k")) == "v");
  CHECK_FALSE(MUST(r.take_string("s")).has_value());
  CHECK_FALSE(MUST(r.take_bool("b")).has_value());
  CHECK_FALSE(MUST(r.take_uint("n")).has_value());
  CHECK_FALSE(MUST(r.take_size("z")).has_value());
  CHECK_FALSE(MUST(r.take_object("o")).has_value());
  CHECK(r.finish().has_value());
}

TEST_CASE("OptionReader: a value of the wrong type is refused by name", "[options]") {
  CHECK(message(reader("b=maybe").take_bool("b")) == "Parameter 'b' expects 'on' or 'off'");
  CHECK(message(reader("n=x").take_uint("n")) == "Parameter 'n' expects integer, not 'x'");
  CHECK(message(reader("n=-1").take_uint("n")) == "Parameter 'n' expects integer, not '-1'");
  CHECK(message(reader("n=9").take_uint("n", 1, 8)) ==
        "Parameter 'n' expects a value between 1 and 8");
  CHECK(message(reader("n=0").take_uint("n", 1, 8)) ==
        "Parameter 'n' expects a value between 1 and 8");
  CHECK(message(reader("size=x").take_size("size")) ==
        "Parameter 'size' expects a non-negative number below 2^64 (optional suffix k, M, G, T, P "
        "or E)");
  constexpr std::string_view kChoices[] = {"one"};
  CHECK(message(reader("c=x").take_choice("c", kChoices)) ==
        "Parameter 'c' does not accept value 'x'");
  CHECK(message(reader("id=1").take_identifier("id")) ==
        "Parameter 'id' expects an identifier (letters, digits, '-', '.', '_', starting with a "
        "letter)");
  CHECK(message(reader("a.b=1").take_string("a")) ==
        "Invalid parameter type for 'a', expected: string");
  CHECK(message(reader("a=1").take_object("a")) ==
        "Invalid parameter type for 'a', expected: object");
  CHECK(message(reader("").take_required("id")) == "Parameter 'id' is missing");
}

TEST_CASE("OptionReader: what JSON wrote as one type is not taken for another", "[options]") {
  constexpr std::string_view kJson = R"({"text":"1","number":2,"switch":true})";
  const auto json = [&] { return OptionReader(MUST(parse_options(kJson))); };
  CHECK(*MUST(json().take_string("text")) == "1");
  CHECK(*MUST(json().take_uint("number")) == 2);
  CHECK(*MUST(json().take_size("number")) == 2);
  CHECK(*MUST(json().take_bool("switch")));
  CHECK(message(json().take_string("number")) ==
        "Invalid parameter type for 'number', expected: string");
  CHECK(message(json().take_identifier("switch")) ==
        "Invalid parameter type for 'switch', expected: string");
  CHECK(message(json().take_uint("text")) ==
        "Invalid parameter type for 'text', expected: integer");
  CHECK(message(json().take_size("switch")) ==
        "Invalid parameter type for 'switch', expected: integer");
  CHECK(message(json().take_bool("text")) ==
        "Invalid parameter type for 'text', expected: boolean");
}

TEST_CASE("OptionReader: the rest is what was not taken", "[options]") {
  OptionReader r = reader("a=1,b=2,c.d=3");
  CHECK(*MUST(r.take_string("b")) == "2");
  CHECK(show(r.take_rest()) == "{a=1;c={d=3}}");
  CHECK(r.finish().has_value());
}

TEST_CASE("OptionReader: a key nobody took is named in full", "[options]") {
  OptionReader r(MUST(parse_options("cpus=1,x.y.z=1")), "smp.");
  CHECK(message(r.finish()) == "Invalid parameter 'smp.cpus'");
  CHECK(MUST(r.take_uint("cpus")) == 1);
  CHECK(message(r.finish()) == "Invalid parameter 'smp.x.y.z'");
  auto object = MUST(r.take_object("x"));
  CHECK(message(object->finish()) == "Invalid parameter 'smp.x.y.z'");
  CHECK(r.finish().has_value());
}
