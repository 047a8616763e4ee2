// What an access and a change of the map cost. Prints medians in nanoseconds; run by hand.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <vector>

#include "memory/address_space.h"
#include "memory/ram_block.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::memory;

namespace {

class Register : public IoHandler {
 public:
  uint64_t io_read(uint64_t, unsigned) override { return 1; }
  void io_write(uint64_t, uint64_t, unsigned) override {}
};

// The median over nine runs of `rounds` calls each.
template <class F>
double nanoseconds(unsigned rounds, F&& f) {
  std::array<double, 9> runs{};
  for (double& run : runs) {
    const auto start = std::chrono::steady_clock::now();
    for (unsigned i = 0; i < rounds; ++i) f(i);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    run = took.count() / rounds;
  }
  std::ranges::sort(runs);
  return runs[runs.size() / 2];
}

std::shared_ptr<RamBlock> make_ram(uint64_t size_bytes) {
  RamBlockConfig config;
  config.name = "bench";
  config.size_bytes = size_bytes;
  return MUST(RamBlock::create(config));
}

constexpr unsigned kRegions = 64;

void measure() {
  MemoryRegion root("root", UINT64_MAX);
  MemoryRegion ram("ram", make_ram(64 << 20));
  Register device;
  std::vector<std::unique_ptr<MemoryRegion>> regions;
  bql.lock();
  auto space = std::make_unique<AddressSpace>("memory", root);
  root.add(ram, 0);
  for (unsigned i = 0; i < kRegions - 1; ++i) {
    const auto locking = i % 2 == 0 ? IoLocking::kBql : IoLocking::kLockFree;
    regions.push_back(std::make_unique<MemoryRegion>("io", 0x1000, device, IoAccess{}, locking));
    root.add(*regions.back(), 0x10000000 + 0x2000 * uint64_t{i});
  }
  bql.unlock();

  const auto io = [](unsigned i) { return GuestAddr{0x10000000 + 0x2000 * uint64_t{i}}; };
  uint64_t sum = 0;
  const auto load = [&](GuestAddr address) { sum += space->load(address, 4); };
  constexpr unsigned kRounds = 200'000;
  fmt::print("load RAM                  {:8.1f} ns\n",
             nanoseconds(kRounds, [&](unsigned i) { load(GuestAddr{i * 4}); }));
  fmt::print("load lock-free I/O        {:8.1f} ns\n",
             nanoseconds(kRounds, [&](unsigned) { load(io(1)); }));
  fmt::print("load BQL I/O              {:8.1f} ns\n",
             nanoseconds(kRounds, [&](unsigned) { load(io(0)); }));
  fmt::print("load lock-free I/O, every time another region {:8.1f} ns\n",
             nanoseconds(kRounds, [&](unsigned i) { load(io(i * 14 % 62 | 1)); }));
  fmt::print("load unassigned           {:8.1f} ns\n",
             nanoseconds(kRounds, [&](unsigned) { load(GuestAddr{0xf0000000}); }));

  bql.lock();
  fmt::print("change of the map, {} regions {:8.1f} ns\n", kRegions,
             nanoseconds(2'000, [&](unsigned i) {
               bql.assert_held();
               regions[5]->set_enabled(i % 2 != 0);
             }));
  space.reset();
  bql.unlock();
  rcu_drain_callbacks();
  if (sum == 0) fmt::print("nothing was read\n");
}

}  // namespace

int main() {
  RcuThread self;
  measure();
}
