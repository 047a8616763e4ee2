#include "util/error.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>

using namespace rhea;

namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return fail(ErrorKind::kInvalidArgument, "{} is odd", value);
  return value / 2;
}

Result<std::unique_ptr<int>> quarter(int value) {
  const int first = TRY(half(value));
  return std::make_unique<int>(TRY(half(first)));
}

Result<void> check_quarter(int value) {
  TRY(quarter(value));
  return ok();
}

}  // namespace

TEST_CASE("TRY: a value passes through, move-only types included", "[error]") {
  auto result = quarter(8);
  REQUIRE(result.has_value());
  CHECK(**result == 2);
}

TEST_CASE("TRY: the first error returns from the enclosing function", "[error]") {
  auto result = check_quarter(6);
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().kind() == ErrorKind::kInvalidArgument);
  CHECK(result.error().message() == "3 is odd");
}

TEST_CASE("Error: errno gives the kind and the system's text", "[error]") {
  const Error error = fail_errno(ENOENT, "cannot open '{}'", "/nope");
  CHECK(error.kind() == ErrorKind::kNotFound);
  CHECK(error.os_errno() == ENOENT);
  CHECK(error.message() == "cannot open '/nope': No such file or directory");
}

TEST_CASE("Error: context goes before the text and keeps the kind", "[error]") {
  const Error error = Error(ErrorKind::kBusy, "in use").context("node d0");
  CHECK(error.kind() == ErrorKind::kBusy);
  CHECK(error.message() == "node d0: in use");
}
