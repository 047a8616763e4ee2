// Guest RAM through multifd channels over socket pairs, beside a bare write/read loop over the
// same.
//
//   multifd_bench [MEBIBYTES]
//
// Both fill fresh memory, whose page faults are the largest cost of a migration's first pass. The
// loop knows nothing of pages: it is the ceiling.
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
#include <utility>
#include <vector>

#include "memory/ram_block.h"
#include "migration/multifd_receiver.h"
#include "migration/multifd_sender.h"
#include "util/check.h"
#include "util/clock.h"
#include "util/parse.h"
#include "util/thread.h"

namespace {

using namespace rhea;
using namespace rhea::migration;

using Ram = std::shared_ptr<memory::RamBlock>;

constexpr size_t kPiece = 512 << 10;  // as much as a packet holds

Ram make_ram(uint64_t bytes) {
  return MUST(memory::RamBlock::create({.name = "bench.ram", .size_bytes = bytes, .path = ""}));
}

std::pair<Fd, Fd> socket_pair() {
  int fds[2];
  RHEA_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

double cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

/// Runs `move`, and prints bytes per second and CPU time per gibibyte.
void measure(const char* what, unsigned channels, uint64_t bytes,
             const std::function<void()>& move) {
  const HostClock clock;
  const double cpu = cpu_seconds();
  const Nanoseconds start = clock.now();
  move();
  const double took = std::chrono::duration<double>(clock.now() - start).count();
  const double size = static_cast<double>(bytes);
  std::printf("%-22s %u channels  %7.0f MB/s  %6.3f CPU s/GiB\n", what, channels, size / took / 1e6,
              (cpu_seconds() - cpu) / size * (1 << 30));
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

}  // namespace

int main(int count, char** arguments) {
  const auto mebibytes = count > 1 ? parse_uint(arguments[1]) : std::optional<uint64_t>(512);
  if (!mebibytes || *mebibytes == 0 || *mebibytes > 64 * 1024) {
    std::fprintf(stderr, "usage: multifd_bench [MEBIBYTES]\n");
    return 2;
  }
  const uint64_t bytes = *mebibytes * kMiB;
  const Ram source = make_ram(bytes);
  fill(*source);
  for (const unsigned channels : {1U, 2U, 4U}) {
    const Ram first = make_ram(bytes);
    measure("bare loop", channels, bytes, [&] { bare_loop(*source, *first, channels); });
    const Ram second = make_ram(bytes);
    measure("multifd", channels, bytes, [&] { multifd(*source, *second, channels, {}); });
    const Ram third = make_ram(bytes);
    measure("multifd, checksummed", channels, bytes, [&] {
      multifd(*source, *third, channels, {.checksum = PacketOptions::Checksum::kPayload});
    });
  }
  const Ram zeros = make_ram(bytes);
  const Ram fresh = make_ram(bytes);
  measure("multifd, all zero", 2, bytes, [&] { multifd(*zeros, *fresh, 2, {}); });
  return 0;
}
