// A sender and a receiver of multifd channels in one process, over socket pairs or pipes.
#pragma once

#include <sys/mman.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "memory/ram_block.h"
#include "migration/multifd_receiver.h"
#include "migration/multifd_sender.h"
#include "tests/unit/migration/pairs.h"
#include "util/check.h"

namespace rhea::migration::test {

inline constexpr uint64_t kSession = 0x5e5510;

inline std::shared_ptr<memory::RamBlock> make_ram(size_t pages) {
  return MUST(
      memory::RamBlock::create({.name = "test.ram", .size_bytes = pages * kPageBytes, .path = ""}));
}

inline std::span<std::byte> page_of(const memory::RamBlock& ram, size_t page) {
  return ram.bytes().subspan(page * kPageBytes, kPageBytes);
}

/// Content for all pages; every fourth stays zero.
inline void fill_ram(const memory::RamBlock& ram, unsigned seed) {
  std::mt19937_64 random(seed);
  for (size_t page = 0; page < ram.size_bytes() / kPageBytes; ++page) {
    if (page % 4 == 3) continue;
    auto* words = reinterpret_cast<uint64_t*>(page_of(ram, page).data());
    for (size_t i = 0; i < kPageBytes / sizeof *words; ++i) words[i] = random();
  }
}

inline bool same_bytes(const memory::RamBlock& a, const memory::RamBlock& b) {
  return std::memcmp(a.host(), b.host(), a.size_bytes()) == 0;
}

/// Which channel the calling thread sends on: set while it connects.
inline thread_local int this_channel = -1;

/// The two ends of each channel, made before anybody connects.
class Links {
 public:
  enum class Kind : uint8_t { kSockets, kPipes };

  Links(unsigned channels, Kind kind) : outgoing_(channels), incoming_(channels) {
    for (unsigned i = 0; i < channels; ++i) {
      if (kind == Kind::kSockets) {
        std::tie(outgoing_[i], incoming_[i]) = socket_pair();
      } else {
        Pipe pipe = MUST(make_pipe());
        outgoing_[i] = std::move(pipe.write);
        incoming_[i] = std::move(pipe.read);
      }
    }
  }

  /// For MultifdSender. Called by several threads, each with a number of its own.
  MultifdSender::Connect connect() {
    return [this](unsigned n, std::shared_ptr<Cancel> cancel) -> Result<ChannelPtr> {
      this_channel = static_cast<int>(n);
      return Channel::create(std::move(outgoing_[n]), std::move(cancel));
    };
  }
  int outgoing_fd(unsigned n) const { return outgoing_[n].get(); }
  Fd& incoming(unsigned n) { return incoming_[n]; }
  size_t size() const { return incoming_.size(); }

 private:
  std::vector<Fd> outgoing_;
  std::vector<Fd> incoming_;
};

struct Setup {
  unsigned channels = 2;
  Links::Kind kind = Links::Kind::kSockets;
  PacketOptions packets{};
  RamView::Content content = RamView::Content::kUnknown;
  MultifdReceiver::Config::Rounds rounds = MultifdReceiver::Config::Rounds::kInOrder;
};

inline MultifdSender::Config sender_config(const Setup& setup, const memory::RamBlock& ram) {
  MultifdSender::Config config;
  config.channels = setup.channels;
  config.session = kSession;
  config.ram = {ram_view(ram)};
  config.packets = setup.packets;
  return config;
}

/// Both sides, connected.
struct Migration {
  Migration(const Setup& setup, const memory::RamBlock& from, const memory::RamBlock& to)
      : links(setup.channels, setup.kind) {
    MultifdReceiver::Config config;
    config.channels = setup.channels;
    config.session = kSession;
    config.ram = {ram_view(to, setup.content)};
    config.cancel = make_cancel();
    config.rounds = setup.rounds;
    receiver = MUST(MultifdReceiver::create(config));
    sender = MUST(MultifdSender::create(sender_config(setup, from), links.connect()));
    for (unsigned i = 0; i < setup.channels; ++i) {
      ChannelPtr in = channel_on(std::move(links.incoming(i)), config.cancel);
      const auto hello = MUST(read_hello(*in));
      MUST_OK(receiver->add(hello, std::move(in)));
    }
  }
  static void MUST_OK(const Result<void>& result) {
    RHEA_CHECK(result.has_value(), "{}", result.error().message());
  }
  /// One round: all pages, and a sync on both sides.
  void send_all(const memory::RamBlock& ram) {
    for (uint32_t page = 0; page < ram.size_bytes() / kPageBytes; ++page) {
      MUST_OK(sender->queue_page(0, page));
    }
    MUST_OK(receiver->wait_sync(MUST(sender->sync(MultifdSender::SyncKind::kAll))));
  }
  void finish() {
    MUST_OK(sender->finish());
    MUST_OK(receiver->finish());
  }

  Links links;
  std::unique_ptr<MultifdReceiver> receiver;
  std::unique_ptr<MultifdSender> sender;
};

}  // namespace rhea::migration::test
