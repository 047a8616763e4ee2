// A driver of the SCSI host device whose every descriptor and every byte the input chooses: the
// device answers, or asks for a reset, and all that was taken comes back.
//
// The input is a list of steps: a number of the step's kind, and what it needs. Requests lie in
// memory that the input writes first; places and lengths come from lists, so that it gets
// somewhere.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "devices/virtio/virtio_pci.h"
#include "devices/virtio/virtio_scsi.h"
#include "tests/fuzz/input.h"
#include "tests/support/guest_queue.h"
#include "tests/support/ring_memory.h"
#include "util/bql.h"
#include "util/check.h"

namespace rhea::devices {
namespace {

using test::GuestBuffer;
using test::GuestQueue;
using test::Input;
using test::RingMemory;

constexpr unsigned kQueues = 3;
constexpr uint16_t kSize = 16;
constexpr uint64_t kRings = 0x1'0000, kRequest = 0x8'0000, kResponse = 0x8'1000, kData = 0x9'0000;
constexpr uint64_t kEnd = 0xc'0000;
constexpr std::array<uint64_t, 8> kPlaces{
    kRequest,  kRequest + 19,          kResponse,        kResponse + 12, kData,
    kData + 1, RingMemory::kBlock - 8, RingMemory::kHole};
constexpr std::array<uint32_t, 16> kLengths{0,  1,  4,   5,   12,  16,  24,   32,
                                            51, 96, 108, 109, 264, 512, 4096, 65'536};

/// A unit that answers at once, parks, or is told to say something.
class Unit final : public ScsiUnit {
 public:
  explicit Unit(const ScsiAddress& address) : ScsiUnit("unit", address) {}
  Result<void> realize() override REQUIRES(bql) { return ok(); }
  void unrealize() override REQUIRES(bql) {}
  ScsiOutcome execute(Co& co, ScsiRequest& request) override {
    const uint8_t opcode = request.cdb[0];
    if (opcode >= 0xe0) {
      request.park();
      if (!request.cancelled()) {
        parked_.push_back({&co.coroutine(), &request});
        co.yield();
      }
      request.unpark();
      return {.end = request.cancelled_end()};
    }
    const uint64_t most = request.data_in.size + request.data_out.size;
    const uint64_t wanted = request.cdb[4] * uint64_t{16};
    if (wanted > most) return {.end = ScsiOutcome::End::kOverrun};
    if (request.data_in.size != 0) request.data_in.clear(0, wanted);
    if (opcode % 2 == 0) return ScsiOutcome::good(wanted);
    return ScsiOutcome::check({ScsiSenseKey::kMediumError, 0x11, 0, wanted}, wanted);
  }
  void wake_cancelled() override {
    std::erase_if(parked_, [](const Parked& one) {
      if (!one.request->cancelled()) return false;
      one.coroutine->wake();
      return true;
    });
  }
  void reset() override {}
  void say(const ScsiSense& sense) { owner()->attention(*this, sense); }

 private:
  struct Parked {
    Coroutine* coroutine;
    const ScsiRequest* request;
  };
  std::vector<Parked> parked_;  // all runs on one thread
};

/// The machine: all queues on main's block context.
class World {
 public:
  World(RingMemory& memory, MainLoop& loop) REQUIRES(bql) : memory_(memory), loop_(loop) {
    std::memset(memory.host(kRequest), 0, kEnd - kRequest);
    scsi_ = std::make_unique<VirtioScsi>(
        "scsi", VirtioDevice::Host{loop, memory.dma()},
        VirtioScsiConfig{.bus_name = "scsi.0", .queues = {&loop.block()}, .queue_size = kSize});
    MUST(scsi_->realize());
    MUST(scsi_->bus().add(std::make_shared<Unit>(ScsiAddress{})));
  }
  ~World() {
    bql.assert_held();
    for (const auto& unit : scsi_->bus().units()) MUST(scsi_->bus().remove(*unit));
    scsi_->unrealize();
  }

  void start(uint8_t features) REQUIRES(bql) {
    scsi_->set_status(0);
    // A reset cancels what is parked: nothing can hold it up.
    for (int turns = 0; scsi_->status() != 0; turns += 4) {
      RHEA_CHECK(turns < 1000);
      settle();
    }
    scsi_->set_status(1);
    scsi_->set_status(3);
    const uint64_t without = uint64_t{features & 3U} << 28 | (features & 0xcU) >> 1;
    scsi_->set_driver_features(scsi_->offered_features() & ~without);
    scsi_->set_status(11);
    queues_.clear();
    for (unsigned i = 0; i < kQueues; ++i) {
      queues_.emplace_back(memory_.host(0), kRings + i * 0x1'0000, kSize, scsi_->kick_fd(i));
      scsi_->set_queue_size(i, kSize);
      scsi_->set_queue_address(i, VirtioDevice::Ring::kDescriptors, queues_[i].descriptors());
      scsi_->set_queue_address(i, VirtioDevice::Ring::kAvailable, queues_[i].available());
      scsi_->set_queue_address(i, VirtioDevice::Ring::kUsed, queues_[i].used());
      scsi_->enable_queue(i);
    }
    scsi_->set_status(15);
    settle();
  }
  void step(Input& input) REQUIRES(bql) {
    switch (input.byte() % 8) {
      case 0:
        return start(input.byte());
      case 1:
        return fill(input);
      case 2:
      case 3:
      case 4:
        return offer(input);
      case 5:
        return plug(input);
      case 6:
        return say(input);
      default:
        return configure(input);
    }
  }
  void settle() REQUIRES(bql) {
    for (int turns = 0; turns < 4; ++turns) {
      loop_.service().notify();
      loop_.turn();
    }
  }

 private:
  /// A well-formed command or control request, or any bytes.
  void fill(Input& input) {
    std::byte* at = memory_.host(kRequest);
    std::memset(at, 0, 64);
    const uint8_t kind = input.byte();
    for (unsigned i = 0; i < 32 && !input.empty(); ++i) at[i] = std::byte{input.byte()};
    if (kind % 4 == 0) return;
    // The address and the command where they belong.
    const bool is_control = kind % 4 == 1;
    at[is_control ? 8 : 0] = std::byte{1};
    for (unsigned i = 1; i < 8; ++i) at[(is_control ? 8 : 0) + i] = std::byte{0};
    at[(is_control ? 8 : 0) + 3] = std::byte{static_cast<uint8_t>(kind >> 6)};
  }
  void offer(Input& input) {
    GuestQueue& queue = queues_[input.byte() % kQueues];
    while (queue.take()) {
    }
    std::vector<GuestBuffer> chain;
    const unsigned pieces = 1 + input.byte() % 4;
    bool writes = false;
    for (unsigned i = 0; i < pieces; ++i) {
      const uint8_t what = input.byte();
      writes |= (what & 0x80) != 0;
      chain.push_back({kPlaces[what % kPlaces.size()], input.pick(kLengths), writes});
    }
    if (queue.free_descriptors() < chain.size()) return;
    queue.offer(chain);
    queue.ring();
  }
  ScsiAddress place(Input& input) {
    const uint8_t what = input.byte();
    return {.target = static_cast<uint8_t>(what & 1), .lun = static_cast<uint16_t>(what >> 6)};
  }
  ScsiUnit* find(const ScsiAddress& address) REQUIRES(bql) {
    for (const auto& unit : scsi_->bus().units()) {
      if (unit->address() == address) return unit.get();
    }
    return nullptr;
  }
  void plug(Input& input) REQUIRES(bql) {
    const ScsiAddress address = place(input);
    if (ScsiUnit* unit = find(address)) {
      MUST(scsi_->bus().remove(*unit));
    } else {
      MUST(scsi_->bus().add(std::make_shared<Unit>(address)));
    }
  }
  void say(Input& input) REQUIRES(bql) {
    auto* unit = static_cast<Unit*>(find(place(input)));
    if (unit != nullptr) unit->say(sense::kCapacityChanged);
  }
  void configure(Input& input) REQUIRES(bql) {
    const size_t offset = input.byte() % 40;
    const uint32_t value = input.word();
    const size_t size = size_t{1} << input.byte() % 3;
    scsi_->write_config(offset, std::as_bytes(std::span(&value, 1)).first(size));
    std::array<std::byte, sizeof(VirtioScsiConfigSpace)> config;
    scsi_->read_config(config);
  }

  RingMemory& memory_;
  MainLoop& loop_;
  std::unique_ptr<VirtioScsi> scsi_;
  std::vector<GuestQueue> queues_;
};

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
  static auto* loop = [] { return MUST(MainLoop::create()).release(); }();
  Input input({data, size});
  World world(*memory, *loop);
  world.start(0);
  for (int steps = 0; steps < 64 && !input.empty(); ++steps) {
    world.step(input);
    world.settle();
  }
  RHEA_CHECK(memory->device_accesses() == 0);
  return 0;
}
