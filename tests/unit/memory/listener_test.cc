// Listeners under RCU: lifetime, order, dirty logging. T004b, T004d, T004f.
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <semaphore>
#include <string>
#include <vector>

#include "memory/address_space.h"
#include "memory/listener_set.h"
#include "memory/topology.h"
#include "tests/support/death.h"
#include "tests/support/size.h"
#include "tests/unit/memory/fixtures.h"
#include "util/mutex.h"
#include "util/thread.h"

#if defined(__SANITIZE_ADDRESS__)
#define RHEA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RHEA_ASAN 1
#endif
#endif

using namespace rhea;
using namespace rhea::memory;
using rhea::test::Machine;

namespace {

// Poisoned when it is freed: a callback on a freed listener is seen in every build.
class Fragile : public MemoryListener {
 public:
  explicit Fragile(std::atomic<uint64_t>& stale) : stale_(stale) {}
  ~Fragile() override { magic_ = 0xdddddddddddddddd; }
  void log_clear(const Section&, uint64_t, uint64_t) override { look(); }
  void log_sync(const Section&) override { look(); }

 private:
  void look() {
    if (*const_cast<volatile uint64_t*>(&magic_) != kMagic) stale_.fetch_add(1);
  }
  static constexpr uint64_t kMagic = 0x6c697374656e6572;
  std::atomic<uint64_t>& stale_;
  uint64_t magic_ = kMagic;
};

// Writes down its calls in a log that several share.
class Scribe : public MemoryListener {
 public:
  Scribe(std::string name, std::vector<std::string>& log) : name_(std::move(name)), log_(log) {}
  void begin() override { note("begin"); }
  void commit() override { note("commit"); }
  void region_add(const Section& s) override { note("add " + s.region->name() + flag(s)); }
  void region_del(const Section& s) override { note("del " + s.region->name()); }
  Result<void> log_start(const Section& s) override {
    note("log " + s.region->name() + flag(s));
    if (s.region->name() != refuses) return ok();
    return fail(ErrorKind::kResource, "{} refuses", name_);
  }
  void log_stop(const Section& s) override { note("unlog " + s.region->name() + flag(s)); }
  void log_sync(const Section& s) override { note("sync " + s.region->name()); }
  void log_clear(const Section& s, uint64_t offset, uint64_t size) override {
    note(fmt::format("clear {} {:#x}+{:#x}", s.region->name(), offset, size));
  }

  std::string refuses;  // the region whose log it can not start

 private:
  static std::string flag(const Section& s) { return s.dirty_logging ? "+log" : ""; }
  void note(const std::string& what) { log_.push_back(name_ + ":" + what); }
  const std::string name_;
  std::vector<std::string>& log_;
};

using Log = std::vector<std::string>;

// Unchecked: what the analysis refuses is what must abort.
void register_unlocked(AddressSpace& space,
                       std::shared_ptr<MemoryListener> listener) NO_THREAD_SAFETY_ANALYSIS {
  space.register_listener(std::move(listener));
}
// Unchecked: as above.
void unregister_unlocked(AddressSpace& space, MemoryListener& listener) NO_THREAD_SAFETY_ANALYSIS {
  space.unregister_listener(listener);
}

}  // namespace

TEST_CASE("MemoryListener: additions go up in address and priority, deletions down, each once",
          "[memory]") {
  Log log;  // outlives the machine, which tells the listeners when it goes
  Machine m;
  MemoryRegion a("a", test::make_ram(0x1000)), b("b", test::make_ram(0x1000));
  auto first = std::make_shared<Scribe>("1", log), second = std::make_shared<Scribe>("2", log);
  BqlGuard guard;
  m.space().register_listener(second, 20);
  m.space().register_listener(first, 10);
  CHECK(log == Log{"2:begin", "2:commit", "1:begin", "1:commit"});
  log.clear();
  {
    MemoryTransaction outer;
    m.root().add(b, 0x1000);
    MemoryTransaction inner;
    m.root().add(a, 0);
    CHECK(log.empty());
  }
  CHECK(log == Log{"1:begin", "2:begin", "1:add a", "2:add a", "1:add b", "2:add b", "1:commit",
                   "2:commit"});
  log.clear();
  {
    MemoryTransaction transaction;
    m.root().remove(a);
    m.root().remove(b);
  }
  CHECK(log == Log{"1:begin", "2:begin", "2:del b", "1:del b", "2:del a", "1:del a", "1:commit",
                   "2:commit"});
  log.clear();
  {
    MemoryTransaction transaction;  // what comes and goes within one is nobody's business
    m.root().add(a, 0);
    m.root().remove(a);
  }
  CHECK(log.empty());
}

TEST_CASE("MemoryListener: unregistering takes back what registering told", "[memory]") {
  Log log;  // outlives the machine, which tells the listeners when it goes
  Machine m;
  MemoryRegion a("a", test::make_ram(0x1000));
  auto scribe = std::make_shared<Scribe>("s", log);
  BqlGuard guard;
  m.root().add(a, 0);
  m.space().register_listener(scribe);
  m.space().unregister_listener(*scribe);
  CHECK(log == Log{"s:begin", "s:add a", "s:commit", "s:begin", "s:del a", "s:commit"});
  m.root().remove(a);
  CHECK(log.size() == 6);
}

TEST_CASE("MemoryListener: dirty logging is told, synced and cleared, the latter without the BQL",
          "[memory]") {
  ::alarm(60);
  Log log;  // outlives the machine, which tells the listeners when it goes
  Machine m;
  Log from_thread;
  auto low_block = test::make_ram(0x4000);
  MemoryRegion low("low", low_block), late("late", test::make_ram(0x1000));
  MemoryRegion window("window", low, 0x2000, 0x2000);
  auto scribe = std::make_shared<Scribe>("s", log);
  {
    BqlGuard guard;
    m.root().add(low, 0);
    m.root().add(window, 0x10000);
    m.space().register_listener(scribe);
    log.clear();
    MUST(topology.start_dirty_log(DirtyClient::kMigration));
    CHECK(topology.start_dirty_log(DirtyClient::kMigration).error().kind() == ErrorKind::kBusy);
    CHECK(log == Log{"s:begin", "s:log low+log", "s:log low+log", "s:commit"});
    log.clear();
    m.root().add(late, 0x8000);
    CHECK(log == Log{"s:begin", "s:add late+log", "s:commit"});
    log.clear();
    // While this thread holds the BQL: a walk that wanted it would hang here.
    MUST(Thread::start("migration", [&] {
      topology.sync_dirty_log();
      topology.clear_dirty_log(*low_block, 0x1000, 0x2000);
    })).join();
    CHECK(log == Log{"s:sync low", "s:sync late", "s:sync low", "s:clear low 0x1000+0x2000",
                     "s:clear low 0x0+0x1000"});
    log.clear();
    topology.stop_dirty_log(DirtyClient::kMigration);
    CHECK(log == Log{"s:begin", "s:unlog low", "s:unlog late", "s:unlog low", "s:commit"});
    m.space().unregister_listener(*scribe);
    m.root().remove(low);
    m.root().remove(late);
    m.root().remove(window);
  }
  ::alarm(0);
}

TEST_CASE("MemoryListener: a dirty log that one of them can not start is off, and all are told",
          "[memory]") {
  Log log;  // outlives the machine, which tells the listeners when it goes
  Machine m;
  MemoryRegion a("a", test::make_ram(0x1000)), b("b", test::make_ram(0x1000));
  auto first = std::make_shared<Scribe>("1", log), second = std::make_shared<Scribe>("2", log);
  BqlGuard guard;
  m.root().add(a, 0);
  m.root().add(b, 0x1000);
  m.space().register_listener(first, 10);
  m.space().register_listener(second, 20);
  second->refuses = "a";
  log.clear();
  const auto refused = topology.start_dirty_log(DirtyClient::kMigration);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().message() == "2 refuses");
  CHECK(refused.error().kind() == ErrorKind::kResource);
  CHECK(log == Log{"1:begin", "2:begin", "1:log a+log", "2:log a+log", "1:commit", "2:commit",
                   "1:begin", "2:begin", "1:unlog a", "2:unlog a", "1:unlog b", "2:unlog b",
                   "1:commit", "2:commit"});
  CHECK_FALSE(topology.dirty_logging());
  // Nothing is left of it.
  second->refuses.clear();
  log.clear();
  REQUIRE(topology.start_dirty_log(DirtyClient::kMigration).has_value());
  CHECK(log == Log{"1:begin", "2:begin", "1:log a+log", "2:log a+log", "1:log b+log", "2:log b+log",
                   "1:commit", "2:commit"});
  topology.stop_dirty_log(DirtyClient::kMigration);
  m.space().unregister_listener(*first);
  m.space().unregister_listener(*second);
  m.root().remove(a);
  m.root().remove(b);
}

TEST_CASE("T004b: four walkers never meet a freed listener", "[memory][stress]") {
  constexpr int kWalkers = 4;
  const int rounds = test::sized(3'000, 100'000);
  Machine m;
  auto block = test::make_ram(0x1000);
  MemoryRegion ram("ram", block);
  m.add(ram, 0);
  std::atomic<uint64_t> stale = 0;
  std::counting_semaphore<kWalkers> walking(0);
  std::atomic<bool> stop = false;
  std::vector<Thread> walkers;
  for (int i = 0; i < kWalkers; ++i) {
    walkers.push_back(MUST(Thread::start("walker", [&] {
      walking.release();
      while (!stop.load(std::memory_order_relaxed)) {
        topology.clear_dirty_log(*block, 0, 0x1000);
        topology.sync_dirty_log();
      }
    })));
  }
  for (int i = 0; i < kWalkers; ++i) walking.acquire();
  {
    BqlGuard guard;
    std::vector<std::shared_ptr<Fragile>> kept;
    for (int i = 0; i < rounds; ++i) {
      kept.push_back(std::make_shared<Fragile>(stale));
      m.space().register_listener(kept.back(), i % 3);
      if (kept.size() < 4) continue;
      auto victim = std::move(kept[static_cast<size_t>(i) % 4]);
      kept.erase(kept.begin() + i % 4);
      m.space().unregister_listener(*victim);
    }
    for (auto& listener : kept) m.space().unregister_listener(*listener);
  }
  stop = true;
  for (auto& walker : walkers) walker.join();
  m.remove(ram);
  CHECK(stale == 0);
}

#ifdef RHEA_ASAN
namespace {

struct ImmediateReclaim {
  template <class Pointer>
  static void retire(Pointer object) {
    object.reset();
  }
};

// Stops its walker in the middle of the list.
class Gate : public MemoryListener {
 public:
  void log_sync(const Section&) override {
    reached.release();
    open.acquire();
  }
  std::binary_semaphore reached{0}, open{0};
};

// A walker stands at the first listener while the second is unregistered and dropped.
template <class Reclaim>
void unregister_under_a_walker() {
  RcuThread self;
  std::atomic<uint64_t> stale = 0;
  ListenerSet<Reclaim> set;
  auto gate = std::make_shared<Gate>();
  auto victim = std::make_shared<Fragile>(stale);
  {
    BqlGuard guard;
    set.add(gate, 0);
    set.add(victim, 1);
  }
  Thread walker = MUST(Thread::start("walker", [&] {
    RcuReadGuard guard;
    set.for_each([](MemoryListener& listener) { listener.log_sync(Section{}); });
  }));
  gate->reached.acquire();
  {
    BqlGuard guard;
    set.remove(*victim);
    victim.reset();
  }
  gate->open.release();
  walker.join();
}

// What `body`, run in a child, writes to stderr.
std::string report_of(void (*body)()) {
  Pipe pipe = MUST(make_pipe());
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(30);
    ::dup2(pipe.write.get(), STDERR_FILENO);
    body();
    ::_exit(0);
  }
  pipe.write.reset();
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(pipe.read.get(), buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return text + fmt::format("status {}", status);
}

}  // namespace

TEST_CASE("T004b: without the grace period the same walk is a use after free", "[memory]") {
  CHECK(report_of(unregister_under_a_walker<RcuReclaim>) == "status 0");
  const std::string report = report_of(unregister_under_a_walker<ImmediateReclaim>);
  INFO(report);
  CHECK(report.find("AddressSanitizer: heap-use-after-free") != std::string::npos);
}
#endif

TEST_CASE("T004d: registering or unregistering without the BQL aborts", "[memory][death]") {
  Log log;  // outlives the machine, which tells the listeners when it goes
  Machine m;
  auto scribe = std::make_shared<Scribe>("s", log);
  CHECK(test::dies([&] { register_unlocked(m.space(), scribe); }));
  {
    BqlGuard guard;
    m.space().register_listener(scribe);
  }
  CHECK(test::dies([&] { unregister_unlocked(m.space(), *scribe); }));
  {
    BqlGuard guard;
    m.space().unregister_listener(*scribe);
  }
}

TEST_CASE("T004d: a tree change from within a listener aborts", "[memory][death]") {
  class Meddler : public MemoryListener {
   public:
    explicit Meddler(MemoryRegion& root) : root_(root) {}
    void commit() override {
      bql.assert_held();
      root_.set_enabled(false);
    }

   private:
    MemoryRegion& root_;
  };
  Machine m;
  MemoryRegion ram("ram", test::make_ram(0x1000));
  CHECK(test::dies([&] {
    BqlGuard guard;
    m.space().register_listener(std::make_shared<Meddler>(m.root()));
    m.root().add(ram, 0);
  }));
}

// Two vCPUs access without a pause, so at every moment some read section is open. Each retired
// object must be freed all the same, while they go on: waited for by its own event.
TEST_CASE("T004f: continuous accesses do not postpone reclamation", "[memory][stress]") {
  class Victim {
   public:
    explicit Victim(std::binary_semaphore& freed) : freed_(freed) {}
    ~Victim() { freed_.release(); }
    std::optional<MemoryRegion> region;

   private:
    std::binary_semaphore& freed_;
  };
  const int rounds = test::sized(50, 2'000);
  Machine m;
  MemoryRegion ram("ram", test::make_ram(0x1000));
  m.add(ram, 0);
  std::array<std::atomic<uint64_t>, 2> accesses{};
  std::atomic<bool> stop = false;
  std::vector<Thread> vcpus;
  for (auto& count : accesses) {
    vcpus.push_back(MUST(Thread::start("vcpu", [&] {
      while (!stop.load(std::memory_order_relaxed)) {
        m.space().load(GuestAddr{8}, 4);
        count.fetch_add(1, std::memory_order_relaxed);
      }
    })));
  }
  int freed_in_time = 0;
  uint64_t accesses_meanwhile = 0;
  std::binary_semaphore freed(0);
  for (int i = 0; i < rounds; ++i) {
    const uint64_t before = accesses[0] + accesses[1];
    auto victim = std::make_shared<Victim>(freed);
    victim->region.emplace("victim", test::make_ram(0x1000));
    {
      BqlGuard guard;
      victim->region->set_owner(victim);
      m.root().add(*victim->region, 0x1000);
      m.root().remove(*victim->region);
    }
    victim.reset();
    if (!freed.try_acquire_for(std::chrono::seconds(120))) break;  // met in a few ms
    ++freed_in_time;
    accesses_meanwhile += accesses[0] + accesses[1] - before;
  }
  stop = true;
  for (auto& vcpu : vcpus) vcpu.join();
  m.remove(ram);
  CHECK(freed_in_time == rounds);
  CHECK(accesses_meanwhile > 0);
}
