#include "block/filename.h"

#include <catch2/catch.hpp>

#include "tests/unit/block/file_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

std::string driver_of(std::string_view name) {
  return MUST(parse_filename(name)).find("driver")->text();
}
std::string path_of(std::string_view name) {
  return MUST(parse_filename(name)).find("filename")->text();
}

}  // namespace

TEST_CASE("parse_filename: paths are the file driver's", "[filename]") {
  for (const std::string_view path : {"disk.img", "/a/b:c", "./a:b", "a/b:c"}) {
    CHECK(driver_of(path) == "file");
    CHECK(path_of(path) == path);
  }
  CHECK(path_of("file:a:b") == "a:b");
  CHECK(path_of("file:/a,b") == "/a,b");
}

TEST_CASE("parse_filename: null-co:// and json: give their driver's options", "[filename]") {
  CHECK(driver_of("null-co://") == "null-co");
  const OptionTree tree =
      MUST(parse_filename(R"(json:{"driver":"raw","file":{"driver":"null-co"},"size":512})"));
  CHECK(tree.find("driver")->text() == "raw");
  CHECK(tree.find("file")->find("driver")->text() == "null-co");
  CHECK(tree.find("size")->text() == "512");
}

TEST_CASE("parse_filename: what is none of these is refused", "[filename]") {
  CHECK(message(parse_filename("")) == "The 'file' block driver requires a file name");
  CHECK(message(parse_filename("file:")) == "The 'file' block driver requires a file name");
  CHECK(message(parse_filename("nbd://host/x")) == "Unknown protocol 'nbd'");
  CHECK(message(parse_filename(":x")) == "Unknown protocol ''");
  CHECK(message(parse_filename("null-co://x")) ==
        "The only allowed filename for this driver is 'null-co://'");
  CHECK_THAT(message(parse_filename("json:{")), Contains("Could not parse the JSON options: "));
  CHECK_THAT(message(parse_filename("json:[1]")), Contains("Could not parse the JSON options: "));
  CHECK(message(parse_filename(std::string_view("a\0b", 3))) ==
        "A file name can not contain a zero byte");
}

TEST_CASE("parse_filename: what it gives can be opened", "[filename]") {
  BlockFixture f;
  CHECK(f.graph().open(f.gs(), MUST(parse_filename("null-co://"))).has_value());
}
