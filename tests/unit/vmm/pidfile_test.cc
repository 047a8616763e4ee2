#include "vmm/pidfile.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>

#include "tests/support/temp_dir.h"

using namespace rhea;
using namespace rhea::vmm;

namespace {

std::string content(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void put(const std::string& path, std::string_view text) { std::ofstream(path) << text; }

std::string error_of(const std::string& path) {
  const auto pidfile = Pidfile::create(path);
  return pidfile ? "no error" : pidfile.error().message();
}

/// Runs `body` in a child that holds on until the test kills it.
class Holder {
 public:
  explicit Holder(const std::function<void()>& body) {
    Pipe ready = MUST(make_pipe());
    pid_ = ::fork();
    if (pid_ == 0) {
      body();
      (void)write_all(ready.write.get(), std::string_view("x"));
      while (true) ::pause();
    }
    ready.write.reset();
    char byte = 0;
    (void)!::read(ready.read.get(), &byte, 1);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() { kill(); }

  pid_t pid() const { return pid_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
};

}  // namespace

TEST_CASE("Pidfile: it holds our id while we run and is gone afterwards", "[pidfile]") {
  const test::TempDir dir;
  const std::string path = dir.file("pid");
  {
    const Pidfile pidfile = MUST(Pidfile::create(path));
    CHECK(content(path) == fmt::format("{}\n", ::getpid()));
    struct stat file{};
    REQUIRE(::stat(path.c_str(), &file) == 0);
    CHECK((file.st_mode & 0777) == 0600);
  }
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("Pidfile: one that a running instance holds is left alone", "[pidfile]") {
  const test::TempDir dir;
  const std::string path = dir.file("pid");
  const Holder holder([&] { static std::optional<Pidfile> held(MUST(Pidfile::create(path))); });
  const std::string before = content(path);
  CHECK(before == fmt::format("{}\n", holder.pid()));
  CHECK(error_of(path) ==
        fmt::format("'{}' is in use by another instance, process {}", path, holder.pid()));
  CHECK(content(path) == before);
}

TEST_CASE("Pidfile: a lock of the kind that QEMU takes is respected", "[pidfile]") {
  const test::TempDir dir;
  const std::string path = dir.file("pid");
  put(path, "");
  const Holder holder([&] {
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    ::fcntl(::open(path.c_str(), O_RDWR), F_SETLK, &lock);
  });
  CHECK(error_of(path) == fmt::format("'{}' is in use by another instance", path));
}

TEST_CASE("Pidfile: one left behind by a killed instance is taken over", "[pidfile]") {
  const test::TempDir dir;
  const std::string path = dir.file("pid");
  Holder holder([&] { static std::optional<Pidfile> held(MUST(Pidfile::create(path))); });
  holder.kill();
  REQUIRE(std::filesystem::exists(path));
  put(path, "12345678901234567890, a longer text than ours");
  const Pidfile pidfile = MUST(Pidfile::create(path));
  CHECK(content(path) == fmt::format("{}\n", ::getpid()));
}

TEST_CASE("Pidfile: a file that took its place is not removed", "[pidfile]") {
  const test::TempDir dir;
  const std::string path = dir.file("pid");
  {
    const Pidfile pidfile = MUST(Pidfile::create(path));
    std::filesystem::remove(path);
    put(path, "another's");
  }
  CHECK(content(path) == "another's");
}

TEST_CASE("Pidfile: a child of the process does not remove it", "[pidfile]") {
  const test::TempDir dir;
  const std::string path = dir.file("pid");
  std::optional<Pidfile> pidfile(MUST(Pidfile::create(path)));
  const pid_t child = ::fork();
  if (child == 0) {
    pidfile.reset();
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  CHECK(std::filesystem::exists(path));
}

TEST_CASE("Pidfile: a relative path is removed from any working directory", "[pidfile]") {
  const test::TempDir dir;
  const auto here = std::filesystem::current_path();
  std::filesystem::current_path(std::filesystem::path(dir.file("x")).parent_path());
  {
    const Pidfile pidfile = MUST(Pidfile::create("pid"));
    CHECK(std::filesystem::exists(dir.file("pid")));
    std::filesystem::current_path(here);
  }
  CHECK_FALSE(std::filesystem::exists(dir.file("pid")));
}

TEST_CASE("Pidfile: what can not be created is named", "[pidfile]") {
  CHECK(error_of("/nonexistent/pid") ==
        "cannot create PID file: Could not create '/nonexistent/pid': No such file or directory");
  CHECK(error_of("/dev/null") == "cannot create PID file: '/dev/null' is not a regular file");
}
