#include "vmm/named_fds.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/support/passed_fd.h"

using namespace rhea;
using namespace rhea::test;
using rhea::vmm::NamedFds;

namespace {

template <class T>
std::string message_of(const Result<T>& result) {
  return result.has_value() ? "no error" : result.error().message();
}

}  // namespace

TEST_CASE("NamedFds: a descriptor is taken by its name, once", "[fds]") {
  NamedFds fds;
  PassedFd passed;
  fds.arrive(set_of(passed.give()));
  REQUIRE(fds.name_waiting("migrate").has_value());
  {
    const auto taken = fds.take("migrate");
    REQUIRE(taken.has_value());
    CHECK(passed.is(taken->get()));
  }
  CHECK_FALSE(passed.is_open());
  CHECK(message_of(fds.take("migrate")) == "File descriptor named 'migrate' has not been found");
}

TEST_CASE("NamedFds: without a set that waits nothing gets a name", "[fds]") {
  NamedFds fds;
  CHECK(message_of(fds.name_waiting("a")) == "No file descriptor supplied via SCM_RIGHTS");
  CHECK(message_of(fds.name_waiting("1")) == "No file descriptor supplied via SCM_RIGHTS");
  CHECK(message_of(fds.take("a")) == "File descriptor named 'a' has not been found");
}

TEST_CASE("NamedFds: a name that begins with a digit is refused, and the set closed", "[fds]") {
  NamedFds fds;
  PassedFd passed;
  fds.arrive(set_of(passed.give()));
  CHECK(message_of(fds.name_waiting("7up")) ==
        "Parameter 'fdname' expects a name not starting with a digit");
  CHECK_FALSE(passed.is_open());
  CHECK(message_of(fds.name_waiting("up7")) == "No file descriptor supplied via SCM_RIGHTS");
}

TEST_CASE("NamedFds: a name given again closes what had it", "[fds]") {
  NamedFds fds;
  PassedFd first, second;
  fds.arrive(set_of(first.give()));
  REQUIRE(fds.name_waiting("a").has_value());
  CHECK(first.is_open());
  fds.arrive(set_of(second.give()));
  REQUIRE(fds.name_waiting("a").has_value());
  CHECK_FALSE(first.is_open());
  CHECK(second.is_open());
  REQUIRE(fds.close("a").has_value());
  CHECK_FALSE(second.is_open());
  CHECK(message_of(fds.close("a")) == "File descriptor named 'a' not found");
}

TEST_CASE("NamedFds: of a set the first is named and the others are closed", "[fds]") {
  NamedFds fds;
  PassedFd first, second;
  std::vector<Fd> set = set_of(first.give());
  set.push_back(second.give());
  fds.arrive(std::move(set));
  CHECK(second.is_open());
  REQUIRE(fds.name_waiting("a").has_value());
  CHECK(first.is_open());
  CHECK_FALSE(second.is_open());
}

TEST_CASE("NamedFds: a set that comes closes the one that waits", "[fds]") {
  NamedFds fds;
  PassedFd first, second;
  fds.arrive(set_of(first.give()));
  fds.arrive(set_of(second.give()));
  CHECK_FALSE(first.is_open());
  CHECK(second.is_open());
  fds.drop_waiting();
  CHECK_FALSE(second.is_open());
}

TEST_CASE("NamedFds: names are bounded, and one that is there may be given again", "[fds]") {
  NamedFds fds;
  PassedFd passed, beyond;
  for (size_t i = 0; i < NamedFds::kMostNamed; ++i) {
    fds.arrive(set_of(PassedFd().give()));
    REQUIRE(fds.name_waiting(fmt::format("n{}", i)).has_value());
  }
  fds.arrive(set_of(beyond.give()));
  CHECK(message_of(fds.name_waiting("beyond")) ==
        "Too many file descriptors: 64 have names already");
  CHECK_FALSE(beyond.is_open());
  fds.arrive(set_of(passed.give()));
  CHECK(fds.name_waiting("n0").has_value());
  CHECK(passed.is_open());
}

TEST_CASE("NamedFds: what it holds goes with it", "[fds]") {
  PassedFd named, waiting;
  {
    NamedFds fds;
    fds.arrive(set_of(named.give()));
    REQUIRE(fds.name_waiting("a").has_value());
    fds.arrive(set_of(waiting.give()));
    CHECK((named.is_open() && waiting.is_open()));
  }
  CHECK_FALSE(named.is_open());
  CHECK_FALSE(waiting.is_open());
}
