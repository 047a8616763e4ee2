// Guest RAM through multifd channels over socket pairs, beside a bare write/read loop over the
// same.
//
//   multifd_bench [--rounds N] [--hugetlb] [MEBIBYTES]
//
// Both fill fresh memory, whose page faults are the largest cost of a migration's first pass. The
// loop knows nothing of pages: it is the ceiling. With --hugetlb the memory comes out of the host's
// pool of huge pages, which must have twice the size free: what a virtual host pays for memory that
// nobody had touched is in no figure then.
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "memory/ram_block.h"
#include "migration/multifd_receiver.h"
#include "migration/multifd_sender.h"
#include "migration/zero_page.h"
#include "util/check.h"
#include "util/clock.h"
#include "util/parse.h"
#include "util/thread.h"

namespace {

using namespace rhea;
using namespace rhea::migration;

using Ram = std::shared_ptr<memory::RamBlock>;

constexpr size_t kPiece = 512 << 10;  // as much as a packet holds

Ram make_ram(uint64_t bytes, bool hugetlb) {
  memory::RamBlockConfig config{.name = "bench.ram", .size_bytes = bytes, .path = ""};
  if (hugetlb) {
    config.type = memory::RamBlockConfig::Type::kMemfd;
    config.share = config.hugetlb = true;
  }
  return MUST(memory::RamBlock::create(config));
}

std::pair<Fd, Fd> socket_pair() {
  int fds[2];
  RHEA_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

/// CPU time of this process: its own code's, and the kernel's for it.
struct Cpu {
  double user = 0;
  double system = 0;
};

Cpu cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return {seconds(used.ru_utime), seconds(used.ru_stime)};
}

/// What one kind of move took, round by round.
struct Samples {
  std::vector<double> bytes_per_second;
  std::vector<double> user;  // CPU seconds per GiB
  std::vector<double> system;
};

/// By kind of move, in the order of their first round.
using Figures = std::vector<std::pair<std::string, Samples>>;

void measure(Figures& figures, const std::string& what, uint64_t bytes,
             const std::function<void()>& move) {
  const HostClock clock;
  const Cpu cpu = cpu_seconds();
  const Nanoseconds start = clock.now();
  move();
  const double took = std::chrono::duration<double>(clock.now() - start).count();
  const Cpu used = cpu_seconds();
  const double size = static_cast<double>(bytes);
  auto found = std::ranges::find(figures, what, &Figures::value_type::first);
  if (found == figures.end()) found = figures.insert(found, {what, {}});
  found->second.bytes_per_second.push_back(size / took);
  found->second.user.push_back((used.user - cpu.user) / size * kGiB);
  found->second.system.push_back((used.system - cpu.system) / size * kGiB);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void print(const Figures& figures) {
  std::printf("%-32s %-26s %s\n", "", "MB/s (from-to)", "CPU s/GiB: user, system");
  for (const auto& [what, samples] : figures) {
    const auto [least, most] = std::ranges::minmax(samples.bytes_per_second);
    std::printf("%-32s %6.0f (%.0f-%.0f)%*s %.3f, %.3f\n", what.c_str(),
                median(samples.bytes_per_second) / 1e6, least / 1e6, most / 1e6, 6, "",
                median(samples.user), median(samples.system));
  }
}

/// The ceiling: each channel moves its share, half a mebibyte a call.
void bare_loop(const memory::RamBlock& from, const memory::RamBlock& to, unsigned channels) {
  std::vector<Thread> threads;
  std::vector<Fd> sockets;
  const size_t share = from.size_bytes() / channels;
  for (unsigned i = 0; i < channels; ++i) {
    auto [out, in] = socket_pair();
    threads.push_back(MUST(Thread::start("write", [&from, i, share, fd = out.get()] {
      for (size_t done = 0; done < share; done += kPiece) {
        const auto piece = from.bytes().subspan(i * share + done, std::min(kPiece, share - done));
        RHEA_CHECK(write_all(fd, piece).has_value());
      }
    })));
    threads.push_back(MUST(Thread::start("read", [&to, i, share, fd = in.get()] {
      for (size_t done = 0; done < share;) {
        const ssize_t n = ::read(fd, to.host() + i * share + done, std::min(kPiece, share - done));
        RHEA_CHECK(n > 0);
        done += static_cast<size_t>(n);
      }
    })));
    sockets.push_back(std::move(out));
    sockets.push_back(std::move(in));
  }
  threads.clear();
}

void multifd(const memory::RamBlock& from, const memory::RamBlock& to, unsigned channels,
             const PacketOptions& packets) {
  std::vector<std::pair<Fd, Fd>> sockets;
  for (unsigned i = 0; i < channels; ++i) sockets.push_back(socket_pair());
  MultifdReceiver::Config incoming;
  incoming.channels = channels;
  incoming.ram = {ram_view(to, RamView::Content::kFresh)};
  incoming.cancel = MUST(Cancel::create());
  const auto receiver = MUST(MultifdReceiver::create(incoming));
  MultifdSender::Config outgoing;
  outgoing.channels = channels;
  outgoing.ram = {ram_view(from)};
  outgoing.packets = packets;
  const auto sender =
      MUST(MultifdSender::create(outgoing, [&](unsigned n, std::shared_ptr<Cancel> cancel) {
        return Channel::create(std::move(sockets[n].first), std::move(cancel));
      }));
  for (auto& [out, in] : sockets) {
    auto channel = MUST(Channel::create(std::move(in), incoming.cancel));
    const auto hello = MUST(read_hello(*channel));
    RHEA_CHECK(receiver->add(hello, std::move(channel)).has_value());
  }
  for (uint32_t page = 0; page < from.size_bytes() / kPageBytes; ++page) {
    RHEA_CHECK(sender->queue_page(0, page).has_value());
  }
  const uint64_t number = MUST(sender->sync(MultifdSender::SyncKind::kAll));
  RHEA_CHECK(receiver->wait_sync(number).has_value());
  RHEA_CHECK(sender->finish().has_value());
  RHEA_CHECK(receiver->finish().has_value());
}

void fill(const memory::RamBlock& ram) {
  std::mt19937_64 random(1);
  auto* words = reinterpret_cast<uint64_t*>(ram.host());
  for (size_t i = 0; i < ram.size_bytes() / sizeof *words; ++i) words[i] = random();
}

struct Options {
  uint64_t bytes = 512 * kMiB;
  uint64_t rounds = 1;
  bool hugetlb = false;
};

std::optional<Options> parse(std::span<char*> arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view word = arguments[i];
    if (word == "--hugetlb") {
      options.hugetlb = true;
      continue;
    }
    const bool rounds = word == "--rounds" && ++i < arguments.size();
    const auto number = parse_uint(arguments[i]);
    if (!number || *number == 0 || *number > 64 * 1024) return std::nullopt;
    if (rounds) {
      options.rounds = *number;
    } else {
      options.bytes = *number * kMiB;
    }
  }
  return options;
}

/// What a sender's look for zeros costs by itself.
void look_at_pages(const memory::RamBlock& ram) {
  for (size_t at = 0; at < ram.size_bytes(); at += kPageBytes) {
    RHEA_CHECK(!is_zero_page(ram.bytes().subspan(at).first<kPageBytes>()));
  }
}

void run_round(Figures& figures, const memory::RamBlock& source, const Options& options) {
  const uint64_t bytes = options.bytes;
  const auto into_fresh = [&](const std::string& what, unsigned channels, const auto& move) {
    const Ram fresh = make_ram(bytes, options.hugetlb);
    measure(figures, fmt::format("{}, {} channels", what, channels), bytes,
            [&] { move(*fresh, channels); });
  };
  for (const unsigned channels : {1U, 2U, 4U}) {
    into_fresh("bare loop", channels,
               [&](const auto& ram, unsigned n) { bare_loop(source, ram, n); });
    into_fresh("multifd", channels,
               [&](const auto& ram, unsigned n) { multifd(source, ram, n, {}); });
    into_fresh("multifd, checksummed", channels, [&](const auto& ram, unsigned n) {
      multifd(source, ram, n, {.checksum = PacketOptions::Checksum::kPayload});
    });
  }
  measure(figures, "the look for zeros alone", bytes, [&] { look_at_pages(source); });
  const Ram zeros = make_ram(bytes, false);
  into_fresh("multifd, all zero", 2,
             [&](const auto& ram, unsigned n) { multifd(*zeros, ram, n, {}); });
}

}  // namespace

int main(int count, char** arguments) {
  const auto options = parse(std::span(arguments, static_cast<size_t>(count)).subspan(1));
  if (!options) {
    std::fprintf(stderr, "usage: multifd_bench [--rounds N] [--hugetlb] [MEBIBYTES]\n");
    return 2;
  }
  const Ram source = make_ram(options->bytes, options->hugetlb);
  fill(*source);
  Figures figures;
  for (uint64_t round = 0; round < options->rounds; ++round) run_round(figures, *source, *options);
  print(figures);
  return 0;
}
