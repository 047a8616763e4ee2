// T001c, T001e and T001f: channels that fail at every place, that stall, and that are cancelled.
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "tests/support/sync_action.h"
#include "tests/support/watchdog.h"
#include "tests/unit/migration/multifd_fixture.h"

using namespace rhea;
using namespace rhea::migration;
using namespace rhea::migration::test;
using namespace std::chrono_literals;
using rhea::test::SyncAction;
using rhea::test::Watchdog;
using SyncKind = MultifdSender::SyncKind;

namespace {

size_t entries(const char* folder) {
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator(folder),
                    std::filesystem::end(std::filesystem::directory_iterator(folder))));
}

/// What a migration must give back, however it ends.
struct Held {
  size_t descriptors = entries("/proc/self/fd");
  size_t threads = entries("/proc/self/task");

  /// A thread that was joined stays in /proc for a moment; what leaks is left to the watchdog.
  void wait_until_given_back() const {
    for (;;) {
      const Held now;
      if (now.descriptors == descriptors && now.threads == threads) return;
      std::this_thread::yield();
    }
  }
};

/// Sends rounds until something fails, and says what.
Error send_until_error(MultifdSender& sender, uint32_t pages) {
  for (;;) {
    for (uint32_t page = 0; page < pages; ++page) {
      auto queued = sender.queue_page(0, page);
      if (!queued) return queued.error();
      if (page != pages / 2) continue;
      auto synced = sender.sync(SyncKind::kLocal);
      if (!synced) return synced.error();
    }
    auto synced = sender.sync(SyncKind::kAll);
    if (!synced) return synced.error();
  }
}

/// Four channels with a real receiver, whose own thread follows the syncs to the bitter end.
class Faulty {
 public:
  static constexpr unsigned kChannels = 4;
  static constexpr uint32_t kPages = 11 * kPacketPages / 2;

  Faulty() : source_(make_ram(kPages)), destination_(make_ram(kPages)) {
    fill_ram(*source_, 1);
    for (unsigned i = 0; i < kChannels; ++i) handles_.emplace_back(::dup(links_.outgoing_fd(i)));
  }
  ~Faulty() {
    sender_.reset();
    incoming_ = Thread();
    receiver_.reset();
  }
  Faulty(const Faulty&) = delete;
  Faulty& operator=(const Faulty&) = delete;

  Links& links() { return links_; }
  /// Channel `n`'s connection breaks: its next write fails.
  void cut(unsigned n) { ::shutdown(handles_[n].get(), SHUT_RDWR); }

  void start(const MultifdSender::Connect& connect, unsigned unread = kChannels) {
    MultifdReceiver::Config config;
    config.channels = kChannels;
    config.session = kSession;
    config.ram = {ram_view(*destination_)};
    config.cancel = cancel_;
    receiver_ = MUST(MultifdReceiver::create(config));
    sender_ =
        MUST(MultifdSender::create(sender_config({.channels = kChannels}, *source_), connect));
    incoming_ = MUST(Thread::start("incoming", [this, unread] { follow(unread); }));
  }
  Error run() {
    const Error error = send_until_error(*sender_, kPages);
    const auto finished = sender_->finish();
    RHEA_CHECK(!finished && finished.error().message() == error.message());
    // The sender's ends are closed by now, so the receiver comes to its end as well.
    handles_.clear();
    incoming_.join();
    return error;
  }
  MultifdSender& sender() { return *sender_; }
  const std::optional<Error>& receiver_error() const { return receiver_error_; }

 private:
  /// The incoming thread: channels as they come, then sync after sync.
  void follow(unsigned unread) {
    for (unsigned i = 0; i < kChannels; ++i) {
      if (i == unread) continue;
      ChannelPtr in = channel_on(std::move(links_.incoming(i)), cancel_);
      const auto hello = read_hello(*in);
      if (!hello || !receiver_->add(*hello, std::move(in))) {
        receiver_error_ = Error(ErrorKind::kIo, "no hello");
        receiver_->cancel();
        return;
      }
    }
    if (unread < kChannels) return;
    for (uint64_t number = 1;; ++number) {
      const auto waited = receiver_->wait_sync(number);
      if (waited) continue;
      receiver_error_ = waited.error();
      return;
    }
  }

  std::shared_ptr<memory::RamBlock> source_;
  std::shared_ptr<memory::RamBlock> destination_;
  Links links_{kChannels, Links::Kind::kSockets};
  std::vector<Fd> handles_;
  std::shared_ptr<Cancel> cancel_ = make_cancel();
  std::unique_ptr<MultifdReceiver> receiver_;
  std::unique_ptr<MultifdSender> sender_;
  Thread incoming_;
  std::optional<Error> receiver_error_;
};

std::string named(unsigned channel) { return "multifd channel " + std::to_string(channel) + ": "; }

// On a channel's own thread, and on the migration thread.
constexpr const char* kChannelPoints[] = {
    "multifd sender: before the wait for work", "multifd sender: after the wait for work",
    "multifd sender: before a packet's write",  "multifd sender: before a token's post",
    "multifd sender: after a token's post",     "multifd sender: before a sync packet",
    "multifd sender: before a sync's done",     "multifd sender: after a sync's done",
};
constexpr const char* kMigrationPoints[] = {
    "multifd sender: before the wait for a token", "multifd sender: after the wait for a token",
    "multifd sender: before a job's post",         "multifd sender: after a job's post",
    "multifd sender: before a sync's post",        "multifd sender: after a sync's post",
    "multifd sender: before the wait for a sync",  "multifd sender: after the wait for a sync",
};

/// What each thread still does when the end is known to all: when a channel is dead. The limit is a
/// second, which on a busy host measures the host; but no wait here has a time-out, so whoever
/// makes few steps is soon out. One step too many ends the test at once, in place of a hang.
class StepsAfterTheEnd {
 public:
  // From a token in hand, or work, to the next look at the end.
  static constexpr int kMostOfMigration = 4;
  static constexpr int kMostOfChannel = 5;

  /// Also runs `action` at `point`.
  explicit StepsAfterTheEnd(
      const char* point = "", std::function<void()> action = [] {})
      : count_(actions(point, std::move(action))) {}
  bool ended() const { return ended_; }

 private:
  std::vector<SyncAction::Action> actions(const char* point, std::function<void()> action) {
    std::vector<SyncAction::Action> all{{"multifd sender: dead", [this] { ended_ = true; }},
                                        {point, std::move(action)}};
    for (const char* own : kChannelPoints) all.emplace_back(own, [this, own] { step(own); });
    for (const char* own : kMigrationPoints) all.emplace_back(own, [this, own] { step(own); });
    return all;
  }
  void step(const char* point) {
    if (!ended_) return;
    const auto thread = static_cast<size_t>(this_channel + 1);
    const int most = thread == 0 ? kMostOfMigration : kMostOfChannel;
    RHEA_CHECK(++steps_[thread] <= most, "thread {}, behind the end, for the {}th time: {}", thread,
               most + 1, point);
  }

  std::atomic<bool> ended_ = false;
  std::array<std::atomic<int>, Faulty::kChannels + 1> steps_{};
  const SyncAction count_;
};

/// Channel `n` breaks when the `pass`th thread that it concerns comes to `point`.
void break_at(const char* point, bool own_thread, unsigned n, int pass) {
  INFO(point << ", channel " << n << ", pass " << pass);
  Faulty faulty;
  this_channel = -1;
  std::atomic<int> left = pass;
  const StepsAfterTheEnd steps(point, [&] {
    if (own_thread && this_channel != static_cast<int>(n)) return;
    if (--left == 0) faulty.cut(n);
  });
  faulty.start(faulty.links().connect());
  const Error error = faulty.run();
  CHECK(steps.ended());
  // The receiver may see it first, and end the other channels.
  CHECK_THAT(error.message(),
             Catch::Matches("multifd channel [0-3]: Unable to write to socket: Broken pipe"));
  CHECK(faulty.receiver_error().has_value());
}

}  // namespace

TEST_CASE("Multifd: a channel that breaks at any point ends everything (T001c)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd faults", 600s);
  const Held before;
  for (const unsigned n : {0U, 3U}) {
    for (const int pass : {1, 3}) {
      for (const char* point : kChannelPoints) break_at(point, true, n, pass);
      for (const char* point : kMigrationPoints) break_at(point, false, n, pass);
    }
  }
  before.wait_until_given_back();
}

TEST_CASE("Multifd: a channel that can not connect ends everything (T001c)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd connect failure", 600s);
  const Held before;
  for (unsigned n = 0; n < Faulty::kChannels; ++n) {
    Faulty faulty;
    this_channel = -1;
    const StepsAfterTheEnd steps;
    const auto connect = faulty.links().connect();
    faulty.start(
        [&](unsigned channel, std::shared_ptr<Cancel> cancel) -> Result<ChannelPtr> {
          if (channel == n) return fail(ErrorKind::kIo, "Failed to connect to 'x': refused");
          return connect(channel, std::move(cancel));
        },
        n);
    CHECK(faulty.run().message() == named(n) + "Failed to connect to 'x': refused");
  }
  before.wait_until_given_back();
}

TEST_CASE("Multifd: a peer that goes before the hello or in a payload is named (T001c)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd vanishing peer", 600s);
  const Held before;
  // 0: before the hello; 50: in it; 64: after it; 100: in page numbers; 20000: in pages.
  for (const size_t bytes : {0UL, 50UL, 64UL, 100UL, 20'000UL}) {
    constexpr unsigned kGone = 2;
    Faulty faulty;
    this_channel = -1;
    const StepsAfterTheEnd steps;
    Fd peer = std::move(faulty.links().incoming(kGone));
    if (bytes == 0) peer.reset();
    faulty.start(faulty.links().connect(), kGone);
    Thread reader = MUST(Thread::start("reader", [&] {
      if (!peer) return;
      const ChannelPtr in = channel_on(std::move(peer));
      std::vector<std::byte> buffer(bytes);
      (void)in->read(buffer);
    }));
    const Error error = faulty.run();
    // The kernel tells EPIPE from ECONNRESET by what the peer had left unread.
    CHECK(error.message().starts_with(named(kGone) + "Unable to write to socket: "));
  }
  before.wait_until_given_back();
}

TEST_CASE("Multifd: a sync meets a channel that dies without counting its token (T001a, T001c)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd dying channel", 600s);
  // The channel is held between taking its job back and giving back the token, until the migration
  // thread has come to its own end. The model found that a sync could count the tokens just then.
  Faulty faulty;
  this_channel = -1;
  std::atomic<int> dying = -1;  // whichever is the first to write
  std::atomic<bool> taken_back = false;
  std::atomic<bool> over = false;
  const SyncAction actions{
      {"multifd sender: before a packet's write",
       [&] {
         int none = -1;
         if (dying.compare_exchange_strong(none, this_channel))
           faulty.cut(static_cast<unsigned>(this_channel));
       }},
      {"multifd sender: a job taken back, before its token's post",
       [&] {
         taken_back = true;
         if (this_channel == dying)
           while (!over) std::this_thread::yield();
       }},
      {"multifd sender: before a sync's post",
       [&] {
         while (!taken_back) std::this_thread::yield();
       }},
  };
  faulty.start(faulty.links().connect());
  const Error error = send_until_error(faulty.sender(), Faulty::kPages);
  over = true;
  CHECK(error.message().starts_with(named(static_cast<unsigned>(dying))));
  (void)faulty.run();
}

namespace {

/// CPU time that a thread has used.
Nanoseconds cpu_time(Thread& thread) {
  clockid_t clock{};
  RHEA_CHECK(::pthread_getcpuclockid(thread.native_handle(), &clock) == 0);
  timespec time{};
  RHEA_CHECK(::clock_gettime(clock, &time) == 0);
  return std::chrono::seconds(time.tv_sec) + Nanoseconds(time.tv_nsec);
}

/// The share of a CPU that `thread` uses while none of `fds` can be written.
double cpu_share_while_full(Thread& thread, const std::vector<Fd>& fds) {
  std::vector<pollfd> waits;
  for (const Fd& fd : fds) waits.push_back({.fd = fd.get(), .events = POLLOUT, .revents = 0});
  const HostClock clock;
  const Nanoseconds used = cpu_time(thread);
  const Nanoseconds start = clock.now();
  RHEA_CHECK(::poll(waits.data(), waits.size(), 300) == 0, "a full socket takes more");
  return static_cast<double>((cpu_time(thread) - used).count()) /
         static_cast<double>((clock.now() - start).count());
}

/// A sender whose channels are all stuck in full sockets, and a thread that sends.
struct Stalled {
  static constexpr uint32_t kPages = 20 * kPacketPages;  // half are more than eight channels take

  explicit Stalled(unsigned channels) : links(channels, Links::Kind::kSockets) {
    for (unsigned i = 0; i < channels; ++i) handles.emplace_back(::dup(links.outgoing_fd(i)));
    fill_ram(*source, 1);
    sender = MUST(
        MultifdSender::create(sender_config({.channels = channels}, *source), links.connect()));
  }
  void wait_until_stuck() const {
    while (sender->busy_channels() != handles.size()) std::this_thread::yield();
    for (const Fd& handle : handles) {
      pollfd state{.fd = handle.get(), .events = POLLOUT, .revents = 0};
      while (::poll(&state, 1, 0) != 0) std::this_thread::yield();
    }
  }

  std::shared_ptr<memory::RamBlock> source = make_ram(kPages);
  Links links;
  std::vector<Fd> handles;
  std::unique_ptr<MultifdSender> sender;
};

}  // namespace

TEST_CASE("Multifd: the migration thread sleeps while all channels are stuck (T001e)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd stalled", 600s);
  Stalled stalled(4);
  const bool in_sync = GENERATE(false, true);
  INFO((in_sync ? "in a sync" : "with a batch in hand"));
  // A batch for each channel, and one more; or a sync.
  const uint32_t pages = in_sync ? 4 * kPacketPages : Stalled::kPages;
  std::optional<Error> error;
  Thread migration = MUST(Thread::start("migration", [&] {
    for (uint32_t page = 0; page < pages && !error; ++page) {
      auto queued = stalled.sender->queue_page(0, page);
      if (!queued) error = queued.error();
    }
    if (error) return;
    auto synced = stalled.sender->sync(SyncKind::kAll);
    if (!synced) error = synced.error();
  }));
  stalled.wait_until_stuck();
  {
    // A count that has drifted shows as CPU time on an idle host, and as passes on a busy one.
    std::atomic<unsigned> passes = 0;
    const SyncAction count({{"multifd sender: after the wait for a token", [&] { ++passes; }},
                            {"multifd sender: after the wait for a sync", [&] { ++passes; }}});
    CHECK(cpu_share_while_full(migration, stalled.handles) < 0.05);
    CHECK(passes <= 1 + 4);  // the thread may still be on its way to its last wait
  }
  stalled.sender->cancel();
  migration.join();
  REQUIRE(error.has_value());
  CHECK(error->kind() == ErrorKind::kCancelled);
}

TEST_CASE("Multifd: after a cancel the next attempt works with fewer channels (T001f)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd again", 600s);
  const auto source = make_ram(8 * kPacketPages);
  fill_ram(*source, 7);
  const Held before;
  for (const unsigned channels : {8U, 5U, 3U, 1U}) {
    {
      Stalled stalled(channels);
      Thread migration = MUST(Thread::start(
          "migration", [&] { (void)send_until_error(*stalled.sender, Stalled::kPages); }));
      stalled.wait_until_stuck();
      stalled.sender->cancel();
      migration.join();
      const auto finished = stalled.sender->finish();
      REQUIRE_FALSE(finished.has_value());
      CHECK(finished.error().kind() == ErrorKind::kCancelled);
    }
    {
      const auto destination = make_ram(8 * kPacketPages);
      Migration again({.channels = channels - channels / 2}, *source, *destination);
      again.send_all(*source);
      CHECK(same_bytes(*source, *destination));
      again.finish();
    }
    before.wait_until_given_back();
  }
}

TEST_CASE("Multifd: a cancel at any point ends both sides (T001f)", "[migration][multifd]") {
  const Watchdog watchdog("multifd cancelled anywhere", 600s);
  const Held before;
  for (const auto& points :
       {std::vector<const char*>(std::begin(kChannelPoints), std::end(kChannelPoints)),
        std::vector<const char*>(std::begin(kMigrationPoints), std::end(kMigrationPoints))}) {
    for (const char* point : points) {
      INFO(point);
      Faulty faulty;
      std::atomic<bool> armed = true;
      std::atomic<MultifdSender*> sender = nullptr;
      this_channel = -1;
      const StepsAfterTheEnd steps(point, [&] {
        while (sender == nullptr) std::this_thread::yield();
        if (armed.exchange(false)) sender.load()->cancel();
      });
      faulty.start(faulty.links().connect());
      sender = &faulty.sender();
      CHECK(faulty.run().kind() == ErrorKind::kCancelled);
    }
  }
  before.wait_until_given_back();
}

TEST_CASE("Multifd: one that is dropped without a word ends its threads (T001f)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd dropped", 600s);
  const Held before;
  {
    const Stalled idle(3);
  }
  {
    const auto source = make_ram(64);
    const auto destination = make_ram(64);
    Migration migration({}, *source, *destination);
    Migration::MUST_OK(migration.sender->queue_page(0, 1));
  }
  before.wait_until_given_back();
}
