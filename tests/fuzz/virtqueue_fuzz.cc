// A split ring whose every word the input chooses: the queue walks it, and touches RAM alone.
//
// The first byte is the queue's size and features, the second how far the available index goes.
// Then come four bytes for each descriptor, of the ring and of an indirect table in turn: where it
// points, how much, flags, next. So that it gets somewhere, places and lengths come from a list.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "devices/virtio/virt_queue.h"
#include "tests/fuzz/input.h"
#include "tests/support/ring_memory.h"
#include "util/bql.h"
#include "util/check.h"

namespace rhea::devices {
namespace {

using test::Input;
using test::RingMemory;

constexpr uint64_t kDescriptors = 0x1'0000, kAvailable = 0x2'0000, kUsed = 0x3'0000;
constexpr uint64_t kTable = 0x4'0000, kData = 0x5'0000;
constexpr std::array<uint64_t, 16> kPlaces{kData,
                                           kData + 1,
                                           kData + 0x1000,
                                           RingMemory::kBlock - 8,
                                           RingMemory::kBlock,
                                           RingMemory::kRamEnd - 8,
                                           RingMemory::kRom,
                                           RingMemory::kDevice,
                                           RingMemory::kHole,
                                           kDescriptors,
                                           kTable,
                                           kTable,
                                           kTable + 16,
                                           kUsed,
                                           UINT64_MAX - 7,
                                           UINT64_MAX};
constexpr std::array<uint32_t, 16> kLengths{0,         1,      2,       15,      16,
                                            17,        32,     128,     512,     4096,
                                            16'384,    65'536, 1 << 20, 8 << 20, UINT32_MAX - 15,
                                            UINT32_MAX};

void write_rings(RingMemory& memory, Input& input, uint16_t size) {
  const auto offered = static_cast<uint16_t>(input.byte() % (size + 2U));
  memory.put<uint16_t>(kAvailable, 0);
  memory.put<uint16_t>(kAvailable + 2, offered);
  for (uint16_t i = 0; i < size; ++i) {
    for (const uint64_t table : {kDescriptors, kTable}) {
      const uint8_t what = input.byte(), next = input.byte();
      const VirtqDesc desc{kPlaces[what % 16], kLengths[input.byte() % 16],
                           static_cast<uint16_t>(what >> 4 & 7), next};
      memory.put(table + 16 * uint64_t{i}, desc);
    }
    memory.put<uint16_t>(kAvailable + 4 + 2 * uint64_t{i}, input.byte());
  }
  memory.put<uint16_t>(kAvailable + 4 + 2 * uint64_t{size}, input.byte());
}

void check_pieces(std::span<const iovec> pieces, uint64_t bytes) {
  uint64_t sum = 0;
  for (const iovec& piece : pieces) {
    RHEA_CHECK(piece.iov_base != nullptr && piece.iov_len != 0);
    sum += piece.iov_len;
  }
  RHEA_CHECK(sum == bytes && sum <= UINT32_MAX);
}

void serve(VirtQueue& queue) {
  static VirtqElement element;  // large
  queue.begin_pass();
  do {
    queue.suppress_notifications();
    while (queue.pop(element)) {
      check_pieces(element.readable(), element.readable_bytes());
      check_pieces(element.writable(), element.writable_bytes());
      std::array<std::byte, 16> header{};
      if (element.copy_out(0, header)) element.skip_readable(header.size());
      if (element.writable_bytes() != 0) *element.take_last_writable() = std::byte{0};
      queue.push(element, static_cast<uint32_t>(element.writable_bytes()));
    }
    queue.publish();
  } while (!queue.broken() && !queue.enable_notifications());
  RHEA_CHECK(queue.in_flight() == 0);
  RHEA_CHECK(!queue.broken() || queue.reason()[0] != '\0');
}

}  // namespace
}  // namespace rhea::devices

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea;
  using namespace rhea::devices;
  const BqlGuard guard;
  static auto* memory = [] {
    bql.assert_held();
    return new test::RingMemory;
  }();
  Input input({data, size});
  const uint8_t shape = input.byte();
  const auto entries = static_cast<uint16_t>(1 << (shape & 7) % 7);
  write_rings(*memory, input, entries);
  memory->put<uint32_t>(kUsed, 0);
  const VirtQueueConfig config{
      .size = entries, .descriptors = kDescriptors, .available = kAvailable, .used = kUsed};
  const auto features = static_cast<VirtQueue::Features>(shape >> 3 & 3);
  serve(*MUST(VirtQueue::create(config, features, memory->dma())));
  RHEA_CHECK(memory->device_accesses() == 0);
  return 0;
}
