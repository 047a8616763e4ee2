// Commands to a disk, a read-only disk and a CD drive: any CDB with any sizes of memory.
//
// Each command is a byte for the unit, one each for the sizes of the initiator's memory, how many
// bytes the CDB has and these, then eight bytes that the data is made of. Whatever comes, a unit
// answers, stays inside the memory that it was given, and a command that was not good has changed
// no block.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "block/graph.h"
#include "devices/scsi/scsi_cd.h"
#include "devices/scsi/scsi_hd.h"
#include "tests/fuzz/input.h"
#include "tests/unit/block/test_drivers.h"
#include "util/bql.h"
#include "util/check.h"
#include "util/options.h"
#include "util/rcu.h"

namespace {

using namespace rhea;
using namespace rhea::devices;
using block::test::TestDisk;
using test::Input;

constexpr size_t kMostCommands = 16;
constexpr std::array<uint16_t, 16> kSizes{0,  1,   4,   8,   12,  18,   24,   36,
                                          64, 255, 511, 512, 513, 2048, 4096, 20'000};
constexpr std::byte kGuard{0xa5};
constexpr size_t kGuardBytes = 32;

struct Errors final : IoErrorSink {
  void io_error(const IoError&) override REQUIRES(bql) {}
};
struct Moves final : ScsiTraySink {
  void tray_moved(const std::string&, ScsiTrayPosition now) override REQUIRES(bql) {
    RHEA_CHECK(now != last, "a tray moves to where it is");
    last = now;
  }
  ScsiTrayPosition last = ScsiTrayPosition::kClosed;
};
struct Bus final : ScsiUnitOwner {
  void attention(ScsiUnit&, const ScsiSense& sense) override {
    RHEA_CHECK(sense.key == ScsiSenseKey::kUnitAttention);
  }
};
struct Request final : ScsiRequest {
  void park() override { RHEA_CHECK(false, "nothing fails here"); }
  void unpark() override {}
};

/// Small media, so that ranges are often on them, and a look at all of a medium is cheap.
struct World {
  // Unchecked: the destructor gives the BQL back.
  World() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    block::set_extra_drivers(block::test::kTestDrivers);
    loop = MUST(MainLoop::create());
    pool = std::make_unique<ThreadPool>(ThreadPool::Limits{});
    graph = std::make_unique<block::Graph>(*loop, *pool);
    add("driver=test-disk,node-name=n0,size=64K,discard=unmap,discards=on,zeroes=on");
    add("driver=test-disk,node-name=n1,size=64K,read-only=on");
    add("driver=test-disk,node-name=n2,size=64K,read-only=on");
    ScsiHdConfig hd;
    hd.node = "n0";
    hd.serial = "fuzz";
    units[0] = std::make_unique<ScsiHd>("hd", ScsiAddress{}, *graph, hd, errors);
    hd.node = "n1";
    hd.removable = true;
    hd.discard_granularity = 0;
    hd.logical_block_size = 4096;
    units[1] = std::make_unique<ScsiHd>("ro", ScsiAddress{}, *graph, hd, errors);
    ScsiCdConfig config;
    config.node = "n2";
    auto drive = std::make_unique<ScsiCd>("cd", ScsiAddress{}, *graph, config, errors, moves);
    cd = drive.get();
    units[2] = std::move(drive);
    for (auto& unit : units) {
      unit->set_owner(&bus);
      MUST(unit->realize());
    }
  }
  // Unchecked: the constructor took the BQL.
  ~World() NO_THREAD_SAFETY_ANALYSIS {
    for (auto& unit : units) unit->unrealize();
    for (auto& unit : units) unit.reset();
    graph.reset();
    pool.reset();
    loop.reset();
    bql.unlock();
  }
  void add(std::string_view options) {
    bql.assert_held();
    block::Node* node = MUST(graph->add(loop->gs(), MUST(parse_options(options))));
    disks.push_back(&TestDisk::of(*node));
  }

  RcuThread rcu_thread;
  std::unique_ptr<MainLoop> loop;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<block::Graph> graph;
  Errors errors;
  Moves moves;
  Bus bus;
  std::vector<TestDisk*> disks;
  std::array<std::unique_ptr<ScsiDisk>, 3> units;
  ScsiCd* cd = nullptr;
};

/// Memory with a guard behind it, in two pieces.
struct Memory {
  explicit Memory(size_t size) : bytes(size + kGuardBytes, kGuard), data(size) {
    const size_t first = size / 2;
    pieces = {iovec{bytes.data(), first}, iovec{bytes.data() + first, size - first}};
  }
  block::IoVector view() const { return block::IoVector::of(pieces); }
  void check_guard(size_t used) const {
    const auto is_guard = [](std::byte b) { return b == kGuard; };
    RHEA_CHECK(std::ranges::all_of(std::span(bytes).subspan(used), is_guard));
  }

  std::vector<std::byte> bytes;
  size_t data;
  std::array<iovec, 2> pieces;
};

void run_command(World& world, size_t which, Input& input) {
  ScsiDisk& unit = *world.units[which];
  Memory out(input.pick(kSizes)), in(input.pick(kSizes));
  Request request;
  const size_t length = input.byte() % (ScsiRequest::kCdbSize + 1);
  for (size_t i = 0; i < length; ++i) request.cdb[i] = input.byte();
  std::array<std::byte, 8> seed{};
  for (std::byte& byte : seed) byte = static_cast<std::byte>(input.byte());
  for (size_t i = 0; i < out.data; ++i) out.bytes[i] = seed[i % seed.size()];
  const std::vector<std::byte> sent = out.bytes;
  request.data_out = out.view();
  request.data_in = in.view();
  const std::vector<std::byte> before = world.disks[which]->bytes();
  ScsiOutcome outcome;
  bql.assert_held();
  MUST(world.graph->run_sync(world.loop->gs(), world.loop->block(), [&](Co& co) -> Result<void> {
    outcome = unit.execute(co, request);
    return ok();
  }));
  RHEA_CHECK(out.bytes == sent, "a unit writes to what it is to read");
  RHEA_CHECK(outcome.transferred <= std::max(out.data, in.data));
  RHEA_CHECK(world.disks[which]->breaches() == 0);
  const bool good =
      outcome.end == ScsiOutcome::End::kCompleted && outcome.status == ScsiStatus::kGood;
  in.check_guard(good ? std::min<size_t>(outcome.transferred, in.data) : 0);
  if (!good) RHEA_CHECK(outcome.transferred == 0);
  if (good && which == 0) return;
  RHEA_CHECK(world.disks[which]->bytes() == before, "a refused command has changed a block");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  bql.assert_held();
  Input input({data, size});
  for (size_t i = 0; i < kMostCommands && !input.empty(); ++i) {
    const uint8_t what = input.byte() % 6;
    if (what < world.units.size()) {
      run_command(world, what, input);
    } else if (what == 3) {
      (void)world.cd->open_tray(ScsiCd::Force::kNo);
    } else if (what == 4) {
      world.cd->close_tray();
    } else {
      for (auto& unit : world.units) unit->reset();
    }
  }
  world.cd->reset();
  (void)world.cd->open_tray(ScsiCd::Force::kYes);
  world.cd->close_tray();
  for (auto& unit : world.units) unit->reset();
  return 0;
}
