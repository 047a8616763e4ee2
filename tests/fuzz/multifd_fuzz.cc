// What a destination reads from a multifd channel: any packets, whole or cut, from a hostile
// source.
//
// An input is a list of pieces. A piece is a byte for its kind, then its fields: a packet whose
// checksums are made right, so that what lies behind them is reached, or bytes as they are.
// Whatever comes, the reader stores into the guest's RAM only, allocates nothing on the peer's
// word, and ends with an error or with the stream.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "migration/packet_reader.h"
#include "tests/fuzz/input.h"
#include "util/check.h"
#include "util/crc32c.h"

namespace {

using namespace rhea;
using namespace rhea::migration;
using test::Input;

constexpr size_t kMostBytes = 1 << 20;
constexpr size_t kPages = 8;
constexpr std::byte kGuard{0xa5};

/// Two blocks with something that must stay on both sides of each.
class Ram {
 public:
  Ram() : memory_((2 * kPages + 3) * kPageBytes, kGuard) {
    views_ = {RamView{block(1)}, RamView{.bytes = block(kPages + 2), .content = kFresh}};
    for (const RamView& view : views_) std::ranges::fill(view.bytes, std::byte{0});
  }
  const std::vector<RamView>& views() const { return views_; }
  void check() const {
    for (size_t page : {size_t{0}, kPages + 1, 2 * kPages + 2}) {
      const auto guard = std::span(memory_).subspan(page * kPageBytes, kPageBytes);
      RHEA_CHECK(std::ranges::all_of(guard, [](std::byte b) { return b == kGuard; }));
    }
  }

 private:
  static constexpr auto kFresh = RamView::Content::kFresh;
  std::span<std::byte> block(size_t first) {
    return std::span(memory_).subspan(first * kPageBytes, kPages * kPageBytes);
  }
  std::vector<std::byte> memory_;
  std::vector<RamView> views_;
};

void append(std::vector<std::byte>& stream, std::span<const std::byte> bytes) {
  stream.insert(stream.end(), bytes.begin(), bytes.end());
}

/// A packet that differs from a right one in what the input says, with checksums that agree.
void append_packet(std::vector<std::byte>& stream, Input& input, uint64_t sequence) {
  constexpr std::array kTypes{PacketType::kPages, PacketType::kSync, PacketType::kHello,
                              static_cast<PacketType>(4)};
  PacketHeader header;
  header.type = input.pick(kTypes);
  header.flags = input.byte() % 8;
  header.channel = input.byte() % 16 == 15 ? 1 : 0;
  header.block = input.byte() % 3;
  header.sequence = input.byte() % 16 == 15 ? input.word() : sequence;
  header.number = input.byte() % 4;
  header.normal_pages = input.byte() % 16 == 15 ? input.word() : input.byte() % 5;
  header.empty_pages = input.byte() % 16 == 15 ? input.word() : input.byte() % 5;
  header.payload_bytes = header.normal_pages * static_cast<uint32_t>(kPageBytes);
  if (input.byte() % 4 == 0) header.payload_bytes = input.word() % 20'000;

  std::vector<le32> indices;
  const uint64_t count =
      std::min<uint64_t>(uint64_t{header.normal_pages} + header.empty_pages, 200);
  for (uint64_t i = 0; i < count; ++i) {
    const uint8_t choice = input.byte();
    indices.emplace_back(choice == 255 ? input.word() : choice % (kPages + 1));
  }
  std::vector<std::byte> payload(std::min<size_t>(header.payload_bytes, kMostBytes));
  const size_t given = input.byte();
  for (size_t i = 0; i < std::min(given, payload.size()); ++i) payload[i] = std::byte{input.byte()};
  if (header.type == PacketType::kPages) {
    header.index_crc = crc32c(std::as_bytes(std::span(indices)));
    if ((header.flags & kPayloadCrc) != 0) header.payload_crc = crc32c(payload);
  }
  append(stream, encode_header(header));
  append(stream, std::as_bytes(std::span(indices)));
  append(stream, payload);
}

std::vector<std::byte> make_stream(Input& input) {
  std::vector<std::byte> stream;
  for (uint64_t sequence = 1; !input.empty() && stream.size() < kMostBytes;) {
    const uint8_t kind = input.byte();
    if (kind % 4 != 3) {
      append_packet(stream, input, sequence++);
      continue;
    }
    for (size_t left = input.byte(); left != 0; --left) stream.push_back(std::byte{input.byte()});
  }
  return stream;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input({data, size});
  const std::vector<std::byte> stream = make_stream(input);
  Fd file(::memfd_create("stream", MFD_CLOEXEC));
  RHEA_CHECK(write_all(file.get(), stream).has_value());
  ::lseek(file.get(), 0, SEEK_SET);
  const auto channel = MUST(Channel::create(std::move(file), MUST(Cancel::create())));

  Ram ram;
  ArrivingRam arriving(ram.views());
  PacketReader reader(0, arriving);
  for (;;) {
    const auto received = reader.next(*channel);
    if (!received) {
      RHEA_CHECK(!received.error().message().empty());
      break;
    }
    if (received->event == PacketReader::Received::Event::kEnded) break;
  }
  ram.check();
  return 0;
}
