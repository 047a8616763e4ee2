#include "util/registered_memory.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/death.h"
#include "tests/support/size.h"
#include "tests/support/syscall_filter.h"
#include "tests/support/temp_dir.h"
#include "tests/support/watchdog.h"
#include "tests/support/without_io_ring.h"
#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/io_ring.h"
#include "util/io_thread.h"
#include "util/one_shot_event.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kGiB = size_t{1} << 30;

/// Memory of its own, as a guest's RAM; unmapped with it.
class Mapping {
 public:
  explicit Mapping(size_t size) : size_(size) {
    void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    RHEA_CHECK(at != MAP_FAILED);
    at_ = static_cast<std::byte*>(at);
  }
  ~Mapping() { ::munmap(at_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* at(size_t offset = 0) const { return at_ + offset; }
  std::span<std::byte> bytes() const { return {at_, size_}; }
  void put(std::string_view text, size_t offset = 0) const {
    std::memcpy(at(offset), text.data(), text.size());
  }
  std::string get(size_t length, size_t offset = 0) const {
    std::string text(length, '?');
    std::memcpy(text.data(), at(offset), length);
    return text;
  }
  iovec part(size_t length, size_t offset = 0) const { return {at(offset), length}; }

 private:
  size_t size_;
  std::byte* at_;
};

/// Memory that the rings may know, until offer.reset().
struct Offered {
  explicit Offered(size_t size)
      : mapping(std::make_shared<Mapping>(size)),
        offer(std::make_unique<RegisteredMemory>(mapping->bytes(), mapping)) {}
  /// 1 if a ring has not let go of it after it went, else 0.
  long others() const { return mapping.use_count() - 1 - (offer ? 1 : 0); }

  std::shared_ptr<Mapping> mapping;
  std::unique_ptr<RegisteredMemory> offer;
};

/// Runs `body` in a coroutine of `context`, to its end.
template <class F>
void run(AioContext& context, F body) {
  bool done = false;
  MUST(start_here(context, [&](Co& co) {
    body(co);
    done = true;
  }));
  while (!done) context.poll(PollMode::kBlocking);
}

/// A context with its ring and an empty file.
struct Fixture {
  std::unique_ptr<AioContext> context = AioContext::create("test").value();
  IoRing& ring = *context->io_ring();
  test::TempDir dir;
  const Fd fd{::open(dir.file("disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  const RingFile file{.number = fd.get()};

  /// Writes `from` to the file and reads it back to `to`; whether both were whole.
  bool copy(iovec from, iovec to) {
    bool whole = false;
    run(*context, [&](Co& co) {
      const auto size = static_cast<int32_t>(from.iov_len);
      whole = ring.co_writev(co, file, {&from, 1}, 0, 0) == size &&
              ring.co_readv(co, file, {&to, 1}, 0) == size;
    });
    return whole;
  }
  /// As copy(), with no other memory.
  bool copies(const Mapping& memory, size_t offset = 0) {
    memory.put("disk", offset);
    return copy(memory.part(4, offset), memory.part(4, offset + 8)) &&
           memory.get(4, offset + 8) == "disk";
  }
  uint64_t registered() const { return ring.counters().registered; }
  void settle() {
    while (context->poll(PollMode::kNonBlocking)) {
    }
  }
};

/// A read of a pipe into registered memory, on a context that is not polled yet.
struct PendingRead {
  PendingRead(AioContext& context, const Offered& memory) {
    MUST(start_here(context, [this, &context, part = memory.mapping->part(4)](Co& co) {
      result = context.io_ring()->co_readv(co, {.number = pipe.read.get()}, {&part, 1}, 0);
    }));
  }
  void finish() { MUST(write_all(pipe.write.get(), "late")); }

  const Pipe pipe = make_pipe().value();
  std::optional<int32_t> result;
};

void drop_lock_capability() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> data{};
  RHEA_CHECK(::syscall(SYS_capget, &header, data.data()) == 0);
  data[0].effective &= ~(1U << CAP_IPC_LOCK);
  RHEA_CHECK(::syscall(SYS_capset, &header, data.data()) == 0);
}

/// RLIMIT_MEMLOCK of the process is `bytes` as long as it lives.
class MemlockLimit {
 public:
  explicit MemlockLimit(size_t bytes) {
    RHEA_CHECK(::getrlimit(RLIMIT_MEMLOCK, &before_) == 0);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    RHEA_CHECK(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  }
  ~MemlockLimit() { ::setrlimit(RLIMIT_MEMLOCK, &before_); }
  MemlockLimit(const MemlockLimit&) = delete;
  MemlockLimit& operator=(const MemlockLimit&) = delete;

 private:
  rlimit before_{};
};

}  // namespace

// --- Which transfers ---

TEST_CASE("RegisteredMemory: what lies in it is transferred as such", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  const Offered memory(1 << 20);
  f.settle();
  CHECK(f.copies(*memory.mapping));
  CHECK(f.copies(*memory.mapping, (1 << 20) - 12));
  CHECK(f.registered() == 4);
  CHECK(f.copy(memory.mapping->part(1 << 19), memory.mapping->part(1 << 19, 1 << 19)));
  CHECK(f.registered() == 6);
  CHECK(f.ring.counters().requests == 6);
}

TEST_CASE("RegisteredMemory: a ring that is made later knows it", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  const Offered memory(kPage);
  Fixture f;
  CHECK(f.copies(*memory.mapping));
  CHECK(f.registered() == 2);
}

TEST_CASE("RegisteredMemory: other memory is transferred as before", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  const auto neighbours = std::make_shared<Mapping>(3 * kPage);
  const RegisteredMemory middle(neighbours->bytes().subspan(kPage, kPage), neighbours);
  f.settle();
  CHECK(f.copies(*neighbours));
  CHECK(f.copies(*neighbours, 2 * kPage));
  neighbours->put("from one to the other", kPage - 4);
  CHECK(f.copy(neighbours->part(21, kPage - 4), neighbours->part(21, 2 * kPage - 8)));
  CHECK(neighbours->get(21, 2 * kPage - 8) == "from one to the other");
  CHECK(f.registered() == 0);
  run(*f.context, [&](Co& co) {
    const std::array<iovec, 2> parts{neighbours->part(2, kPage), neighbours->part(2, kPage + 8)};
    CHECK(f.ring.co_writev(co, f.file, parts, 0, 0) == 4);
    const iovec none = neighbours->part(0, kPage);
    CHECK(f.ring.co_readv(co, f.file, {&none, 1}, 0) == 0);
  });
  CHECK(f.registered() == 0);
  CHECK(f.copies(*neighbours, kPage));
  CHECK(f.registered() == 2);
}

TEST_CASE("RegisteredMemory: a transfer that a table's slot does not hold goes unregistered",
          "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  const Offered memory(kGiB + (1 << 20));
  f.settle();
  const Mapping& m = *memory.mapping;
  m.put("across", kGiB - 3);
  CHECK(f.copy(m.part(6, kGiB - 3), m.part(6, kGiB + 64)));
  CHECK(m.get(6, kGiB + 64) == "across");
  CHECK(f.registered() == 1);  // the read, behind the first GiB, which was not even pinned
}

TEST_CASE("RegisteredMemory: what does not fit into a ring's table goes unregistered",
          "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  std::vector<Offered> many;
  for (int i = 0; i < 1025; ++i) many.emplace_back(kPage);
  f.settle();
  for (const Offered& memory : many) REQUIRE(f.copies(*memory.mapping));
  CHECK(f.registered() == 2 * 1024);
  many.erase(many.begin());
  const Offered next(kPage);
  f.settle();
  CHECK(f.copies(*next.mapping));
  CHECK(f.registered() == 2 * 1025);
}

// --- Life ---

TEST_CASE("RegisteredMemory: when it goes the ring lets go of it", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  Offered memory(kPage);
  f.settle();
  CHECK(f.copies(*memory.mapping));
  memory.offer.reset();
  CHECK(memory.others() == 1);
  f.settle();
  CHECK(memory.others() == 0);
  CHECK(f.copies(*memory.mapping));
  CHECK(f.registered() == 2);
}

TEST_CASE("RegisteredMemory: other memory at the same place is not taken for it", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  for (int i = 0; i < 10; ++i) {
    const Offered memory(kPage);
    f.settle();
    CHECK(f.copies(*memory.mapping));
    CHECK(f.registered() == 2 * static_cast<uint64_t>(i + 1));
  }
}

TEST_CASE("RegisteredMemory: it may outlive a ring, and the next ring knows it", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Offered memory(kPage);
  {
    Fixture f;
    CHECK(f.copies(*memory.mapping));
    CHECK(f.registered() == 2);
    f.context->rebind_home();  // to where it is: the ring goes, and there is another
    CHECK(f.context->io_ring()->counters().registered == 0);
    const RingFile file = f.file;
    run(*f.context, [&](Co& co) {
      const iovec part = memory.mapping->part(4);
      CHECK(f.context->io_ring()->co_readv(co, file, {&part, 1}, 0) == 4);
    });
    CHECK(f.context->io_ring()->counters().registered == 1);
  }
  CHECK(memory.others() == 0);
}

TEST_CASE("RegisteredMemory: a change that a ring has not seen is no burden to its end",
          "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  auto f = std::make_unique<Fixture>();
  Offered memory(kPage);
  f->settle();
  CHECK(f->copies(*memory.mapping));
  memory.offer.reset();  // its bottom half waits
  f.reset();
  CHECK(memory.others() == 0);
}

TEST_CASE("RegisteredMemory: it stays until the transfers in it have ended", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("memory goes under a transfer", 60s);
  Fixture f;
  Offered memory(kPage);
  f.settle();
  PendingRead first(*f.context, memory);
  PendingRead second(*f.context, memory);
  const bool submitted = GENERATE(false, true);
  if (submitted) f.settle();
  memory.offer.reset();
  f.settle();
  CHECK(memory.others() == 1);
  first.finish();
  while (!first.result) f.context->poll(PollMode::kBlocking);
  CHECK(memory.others() == 1);
  CHECK(memory.mapping->get(4) == "late");
  second.finish();
  while (!second.result) f.context->poll(PollMode::kBlocking);
  CHECK(memory.others() == 0);
  CHECK(first.result == 4);
  CHECK(second.result == 4);
  CHECK(f.registered() == 2);
}

TEST_CASE("RegisteredMemory: a cancelled transfer gives it back", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("cancelled transfer of registered memory", 60s);
  Fixture f;
  Offered memory(kPage);
  f.settle();
  PendingRead read(*f.context, memory);
  memory.offer.reset();
  f.settle();
  f.ring.cancel_all();
  while (!read.result) f.context->poll(PollMode::kBlocking);
  CHECK(read.result == -ECANCELED);
  CHECK(memory.others() == 0);
}

TEST_CASE("RegisteredMemory: transfers that the kernel has not taken yet find what they named",
          "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("memory goes before the kernel takes requests", 60s);
  constexpr int kMany = 300;  // more than the submission queue holds
  std::array<int, 3> found{};
  test::FailingSyscall kernel(__NR_io_uring_enter, EAGAIN);
  MUST(Thread::start("filtered", [&] {
    kernel.apply();
    Fixture f;
    Offered memory(kPage);
    f.settle();
    RHEA_CHECK(f.copies(*memory.mapping));
    kernel.set_failing(true);
    std::vector<int32_t> results;
    const iovec part = memory.mapping->part(4);
    for (int i = 0; i < kMany; ++i) {
      MUST(start_here(*f.context, [&](Co& co) {
        results.push_back(f.ring.co_readv(co, f.file, {&part, 1}, 0));
      }));
    }
    memory.offer.reset();
    for (int i = 0; i < 3; ++i) f.context->poll(PollMode::kBlocking);
    found[0] = static_cast<int>(memory.others());
    kernel.set_failing(false);
    while (results.size() < kMany) f.context->poll(PollMode::kBlocking);
    found[1] = static_cast<int>(std::ranges::count(results, 4));
    found[2] = static_cast<int>(memory.others());
  }));
  CHECK(found == std::array<int, 3>{1, kMany, 0});
}

TEST_CASE("RegisteredMemory: comes and goes while threads transfer", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("registered memory and threads", 120s);
  constexpr size_t kThreads = 2;
  constexpr size_t kSlices = 16;
  struct Worker {
    Fixture f;  // its file; the ring of its context is not used
    std::unique_ptr<IOThread> thread = IOThread::create("worker").value();
    std::atomic<size_t> left{0};
    std::atomic<size_t> wrong{0};
    uint64_t registered = 0;
  };
  std::array<Worker, kThreads> workers;
  for (Worker& worker : workers) {
    const std::string text(kPage, 'x');
    MUST(write_all(worker.f.fd.get(), text));
  }
  const int rounds = test::sized(100, 5'000);
  for (int round = 0; round < rounds; ++round) {
    test::Watchdog::feed();
    Offered memory(kThreads * kSlices * kPage);
    OneShotEvent one_has_run;
    for (size_t w = 0; w < kThreads; ++w) {
      Worker& worker = workers[w];
      worker.left = kSlices;
      worker.thread->context().post([&, w, mapping = memory.mapping.get()] {
        AioContext& context = worker.thread->context();
        for (size_t slice = 0; slice < kSlices; ++slice) {
          MUST(start_here(context, [&worker, &context, mapping, at = w * kSlices + slice](Co& co) {
            const iovec part = mapping->part(kPage, at * kPage);
            const int32_t n = context.io_ring()->co_readv(co, worker.f.file, {&part, 1}, 0);
            if (n != kPage || mapping->get(kPage, at * kPage) != std::string(kPage, 'x')) {
              worker.wrong.fetch_add(1);
            }
            worker.registered = context.io_ring()->counters().registered;
            if (worker.left.fetch_sub(1) == 1) worker.left.notify_one();
          }));
        }
        if (w == 0) one_has_run.set();
      });
    }
    if (round % 2 == 0) one_has_run.wait();
    memory.offer.reset();  // in the middle of it
    for (Worker& worker : workers) {
      for (size_t left = worker.left; left > 0; left = worker.left) worker.left.wait(left);
    }
    if (round % 2 != 0) one_has_run.wait();
  }
  uint64_t registered = 0;
  for (Worker& worker : workers) {
    worker.thread.reset();
    CHECK(worker.wrong == 0);
    registered += worker.registered;
  }
  CHECK(registered > 0);
}

// --- Refusals ---

TEST_CASE("RegisteredMemory: without the right to lock it, or the call, transfers go on",
          "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  const bool by_limit = GENERATE(true, false);
  bool copied = false;
  uint64_t registered = 1;
  uint64_t small = 0;
  {
    const MemlockLimit limit(1 << 20);
    MUST(Thread::start("refused", [&] {
      if (by_limit) {
        drop_lock_capability();
      } else {
        test::forbid_syscall(__NR_io_uring_register, EPERM);
      }
      Fixture f;
      const Offered too_much(4 << 20);
      f.settle();
      copied = f.copies(*too_much.mapping) && f.copies(*too_much.mapping, kPage);
      registered = f.registered();
      // A refusal is of one memory only.
      const Offered little(kPage);
      f.settle();
      copied = copied && f.copies(*little.mapping);
      small = f.registered();
    }));
  }
  CHECK(copied);
  CHECK(registered == 0);
  CHECK(small == (by_limit ? 2 : 0));
}

TEST_CASE("RegisteredMemory: the same memory twice aborts", "[io_ring][death]") {
  SKIP_WITHOUT_IO_RING();
  const Offered memory(2 * kPage);
  CHECK(test::dies(
      [&] { const RegisteredMemory again(memory.mapping->bytes().subspan(kPage), nullptr); }));
}
