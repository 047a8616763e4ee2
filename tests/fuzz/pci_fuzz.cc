// A guest that does what it likes to PCI: the input is its program. After each step the functions'
// configuration space, the memory map, the interrupt wires and the MSI-X vectors must be what a
// naive model says; after a reset everything is as at power-on.
//
// A step is a byte that chooses it and a few that say what with. So that the program gets
// somewhere, addresses, registers and values come from lists of those that matter.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "devices/virtio/virtio_spec.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/pci_choices.h"
#include "tests/fuzz/pci_model.h"
#include "tests/fuzz/pci_world.h"
#include "util/bql.h"
#include "util/check.h"

namespace rhea::test {
namespace {

using Reg = devices::VirtioCommonReg;
using Function = FunctionUnderTest;

constexpr unsigned kMostSteps = 200;
constexpr uint64_t kPage = 4096;
constexpr unsigned kData = 16;  // of the configuration access capability

uint32_t value_from(Input& input) {
  const uint8_t how = input.byte();
  return how < 0xf0 ? kValues[how % kValues.size()] : input.word();
}
unsigned size_from(Input& input, unsigned offset) {
  unsigned size = 1U << input.byte() % 3;
  while (size > 4 - offset % 4) size /= 2;
  return size;
}

/// The machine and its model, one step at a time.
/// Thread: main, with the BQL.
class Guest {
 public:
  Guest() {
    bql.assert_held();  // the world has taken it
    for (Function& f : world_.functions()) find_masks(f);
    Function& spare = world_.functions()[3];
    find_bars(world_.functions()[1], {{.index = 1, .size_bytes = 0x2000},
                                      {.index = 4, .wide = true, .size_bytes = 0x4000}});
    find_bars(world_.functions()[2], {{.index = 1, .size_bytes = 0x2000},
                                      {.index = 4, .wide = true, .size_bytes = 0x4000}});
    find_bars(spare, {{.index = 0, .io = true, .size_bytes = 64},
                      {.index = 1, .size_bytes = 256 << 20},
                      {.index = 2, .wide = true, .size_bytes = uint64_t{1} << 40}});
    reset();
  }

  void run(Input input) REQUIRES(bql) {
    for (unsigned step = 0; !input.empty() && step < kMostSteps; ++step) {
      run_step(input);
      if (world_.take_reset_request()) reset();
      check();
    }
    reset();
    world_.turn();  // what was posted before finds a quiet device
    check();
    for (const Function& f : world_.functions()) {
      if (f.virtio != nullptr) RHEA_CHECK(f.virtio->device().status() == 0);
    }
    world_.forget_ram();
  }

 private:
  memory::AddressSpace& memory() { return world_.machine().memory(); }
  memory::AddressSpace& io() { return world_.machine().io(); }

  // What is found out at power-on.

  /// Which bits may change: [PCI-3.0 6.2], the 440FX's attribute map, and the capabilities, which
  /// are found as a driver finds them.
  void find_masks(Function& f) REQUIRES(bql) {
    for (unsigned i = 0; i < ConfigModel::kBytes; ++i) {
      f.config.set_initial(i, static_cast<uint8_t>(world_.config_read(f, i, 1)));
    }
    f.config.allow(0x04, 0x0547);
    f.config.allow_clear(0x06, 0xf900);
    f.config.ignore(0x06, 0x0008);  // the interrupt's level
    f.config.allow(0x0c, 0xffff);
    f.config.allow(0x3c, 0xff);
    if (f.slot == 0) {
      f.config.allow(0x59, 0xff'ffff);
      f.config.allow(0x5c, UINT32_MAX);
    }
    for (unsigned at = f.config.read(0x34, 1); at != 0; at = f.config.read(at + 1, 1)) {
      const unsigned id = f.config.read(at, 1);
      if (id == 0x11) {
        f.msix_capability = at;
        f.config.allow(at + 2, 0xc000);
      } else if (id == 0x09 && f.config.read(at + 3, 1) == 5) {
        f.access_capability = at;
        f.config.allow(at + 4, 0xff);
        for (unsigned i = 8; i <= kData; i += 4) f.config.allow(at + i, UINT32_MAX);
        f.config.ignore(at + kData, UINT32_MAX);
      }
    }
  }

  /// Puts each BAR where nothing else is, and remembers what is seen there.
  void find_bars(Function& f, std::vector<BarModel> bars) REQUIRES(bql) {
    f.bars = std::move(bars);
    for (BarModel& bar : f.bars) {
      const unsigned at = ConfigModel::kBar0 + 4 * bar.index;
      const uint64_t address = bar.io ? 0xc000 : bar.wide ? kSpaceBytes / 2 : 0xe000'0000;
      f.config.allow(at, static_cast<uint32_t>(~(bar.size_bytes - 1)));
      if (bar.wide) f.config.allow(at + 4, static_cast<uint32_t>(~(bar.size_bytes - 1) >> 32));
      world_.config_write(f, at, static_cast<uint32_t>(address), 4);
      if (bar.wide) world_.config_write(f, at + 4, address >> 32, 4);
      world_.config_write(f, 4, 3, 2);
      const auto view = (bar.io ? io() : memory()).pin();
      for (uint64_t offset = 0; offset < bar.size_bytes;) {
        const memory::FlatRange* range = view->find(address + offset);
        RHEA_CHECK(range != nullptr && range->offset_in_region == 0);
        bar.pieces.push_back({offset, range->size_bytes, range->region, range->handler});
        offset += range->size_bytes;
      }
      RHEA_CHECK(bar.pieces.back().offset + bar.pieces.back().size_bytes == bar.size_bytes);
      world_.machine().reset();
    }
  }

  // Steps.

  void run_step(Input& input) REQUIRES(bql) {
    using Step = void (Guest::*)(Input&);
    static constexpr std::array<Step, 13> kSteps{
        &Guest::step_config_write, &Guest::step_config_read, &Guest::step_move_bar,
        &Guest::step_move_bar,     &Guest::step_size_bar,    &Guest::step_command,
        &Guest::step_bar_access,   &Guest::step_indirect,    &Guest::step_start,
        &Guest::step_request,      &Guest::step_turn,        &Guest::step_port,
        &Guest::step_reset};
    (this->*input.pick(kSteps))(input);
  }

  Function& function_from(Input& input) { return world_.functions()[input.byte() % 4]; }

  void step_config_write(Input& input) {
    bql.assert_held();
    Function& f = function_from(input);
    const unsigned offset = input.byte() & 1 ? input.byte() : input.pick(kOffsets);
    const unsigned size = size_from(input, offset);
    config_out(f, offset, value_from(input), size);
  }
  void step_config_read(Input& input) {
    bql.assert_held();
    Function& f = function_from(input);
    const unsigned offset = input.byte() & 1 ? input.byte() : input.pick(kOffsets);
    config_in(f, offset, size_from(input, offset));
  }
  /// A BAR's address, its halves in the order that the input chooses.
  void step_move_bar(Input& input) {
    bql.assert_held();
    Function& f = world_.functions()[1 + input.byte() % 3];
    const BarModel& bar = f.bars[input.byte() % f.bars.size()];
    const unsigned at = ConfigModel::kBar0 + 4 * bar.index;
    const uint64_t address = input.pick(kPlaces);
    const bool high_first = (input.byte() & 1) != 0;
    if (bar.wide && high_first) config_out(f, at + 4, address >> 32, 4);
    config_out(f, at, static_cast<uint32_t>(address), 4);
    if (bar.wide && !high_first) config_out(f, at + 4, address >> 32, 4);
  }
  void step_size_bar(Input& input) {
    bql.assert_held();
    Function& f = world_.functions()[1 + input.byte() % 3];
    const BarModel& bar = f.bars[input.byte() % f.bars.size()];
    const unsigned at = ConfigModel::kBar0 + 4 * bar.index;
    uint64_t size_mask = bar.wide ? 0 : UINT64_MAX << 32;
    for (unsigned half = 0; half <= (bar.wide ? 1 : 0); ++half) {
      const uint32_t before = f.config.read(at + 4 * half, 4);
      config_out(f, at + 4 * half, UINT32_MAX, 4);
      size_mask |= uint64_t{config_in(f, at + 4 * half, 4)} << (32 * half);
      check();
      config_out(f, at + 4 * half, before, 4);
    }
    RHEA_CHECK(~(size_mask & ~uint64_t{bar.io ? 3U : 15U}) + 1 == bar.size_bytes);
  }
  void step_command(Input& input) {
    bql.assert_held();
    Function& f = function_from(input);
    config_out(f, 4, input.byte(), 1);
  }
  /// At a BAR's address, whoever answers there now.
  void step_bar_access(Input& input) {
    bql.assert_held();
    Function& f = world_.functions()[1 + input.byte() % 3];
    const BarModel& bar = f.bars[input.byte() % f.bars.size()];
    const uint8_t what = input.byte();
    const uint64_t offset = uint64_t{kPage / 2} * (what >> 2 & 7) + input.byte();
    const unsigned size = 1U << (what & 3);
    const auto base = f.config.address_of(bar);
    if (!base || (bar.io && size == 8)) return;
    memory::AddressSpace& space = bar.io ? io() : memory();
    const memory::GuestAddr address{*base + offset % bar.size_bytes};
    if ((what & 0x20) != 0) {
      space.load(address, size);
    } else {
      space.store(address, value_from(input), size);
    }
  }
  /// Through the configuration access capability, legal or not. [virtio-1.2 4.1.4.9]
  void step_indirect(Input& input) {
    bql.assert_held();
    Function& f = world_.functions()[1 + input.byte() % 2];
    const uint8_t what = input.byte();
    const uint32_t offset = kPage * (what >> 2 & 7) + input.byte();
    point_at(f, (what & 3) == 3 ? 1 : 4, offset, (what >> 5 & 3) == 3 ? 8 : 1U << (what >> 5 & 3));
    if ((what & 0x80) != 0) {
      config_in(f, f.access_capability + kData, 4);
    } else {
      config_out(f, f.access_capability + kData, value_from(input), 4);
    }
  }
  /// What a driver does to get its first queue running, or as far as the input wants.
  void step_start(Input& input) {
    bql.assert_held();
    Function& f = world_.functions()[1 + input.byte() % 2];
    const uint8_t far = input.byte();
    const auto queue = static_cast<uint16_t>(far >> 4 & 3);
    const uint64_t rings = kRings + 0x1'0000 * uint64_t{f.slot};
    // All that is offered but what the input leaves out; or, seldom, what is not offered too.
    const uint32_t left_out = input.word();
    const auto offered = static_cast<uint32_t>(f.virtio->device().offered_features());
    const uint32_t features = far >= 0xf0 ? left_out : offered & ~left_out;
    const std::array<std::pair<Reg, uint32_t>, 15> stores{
        {{Reg::kStatus, 0},
         {Reg::kStatus, 3},
         {Reg::kDriverFeatureSelect, 0},
         {Reg::kDriverFeature, features},
         {Reg::kDriverFeatureSelect, 1},
         {Reg::kDriverFeature, 1},
         {Reg::kStatus, 11},
         {Reg::kQueueSelect, queue},
         {Reg::kQueueSize, 16},
         {Reg::kQueueVector, queue},
         {Reg::kQueueDescriptors, static_cast<uint32_t>(rings)},
         {Reg::kQueueDriver, static_cast<uint32_t>(rings) + 0x1000},
         {Reg::kQueueDevice, static_cast<uint32_t>(rings) + 0x2000},
         {Reg::kQueueEnable, 1},
         {Reg::kStatus, 15}}};
    for (size_t i = 0; i < stores.size() && (far % 16 == 0 || i < far % 16); ++i) {
      common_out(f, stores[i].first, stores[i].second);
      if (i == 0) world_.turn();  // a reset is completed on main
    }
  }
  /// A request in the rings of step_start(), and the doorbell.
  void step_request(Input& input) {
    bql.assert_held();
    const Function& f = world_.functions()[1 + input.byte() % 2];
    const uint64_t rings = kRings + 0x1'0000 * uint64_t{f.slot};
    const uint8_t what = input.byte();
    const uint32_t header[4]{what & 15U, 0, input.byte(), 0};
    const uint32_t length = 512U << (what >> 4 & 3);
    const uint64_t data = kPlaces[input.byte() % kPlaces.size()];
    const std::array<devices::VirtqDesc, 3> chain{
        {{kBuffers, sizeof header, 1, 1},
         {data, length, static_cast<uint16_t>((what & 1) != 0 ? 1 : 3), 2},
         {kBuffers + 64, 1, 2, 0}}};
    put(kBuffers, header);
    put(rings, chain);
    const uint16_t index = memory().read_ram<uint16_t>({rings + 0x1002}).value_or(0);
    put(rings + 0x1004 + 2 * uint64_t(index % 16), uint16_t{0});
    put(rings + 0x1002, static_cast<uint16_t>(index + 1));
    signal_eventfd(f.virtio->device().kick_fd(0));
  }
  void step_turn(Input&) {
    bql.assert_held();
    world_.turn();
  }
  /// The two ports of the host bridge, as bytes and words too, and what lies among them.
  void step_port(Input& input) {
    bql.assert_held();
    const uint8_t what = input.byte();
    const unsigned port = 0xcf8 + (what & 7);
    const unsigned size = size_from(input, port);
    if ((what & 8) != 0) {
      port_in(port, size);
    } else {
      port_out(port, what & 16 ? input.word() : value_from(input), size);
    }
  }
  void step_reset(Input&) {
    bql.assert_held();
    reset();
  }

  // What steps are made of: the machine's side and the model's side by side.

  void reset() REQUIRES(bql) {
    world_.machine().reset();
    config_address_ = 0;
    for (Function& f : world_.functions()) {
      f.config.reset();
      update_map(f);
    }
  }

  template <class T>
  void put(uint64_t address, const T& value) {
    // A BAR may not hide RAM, so this can not fail.
    MUST(memory().write_ram({address}, std::as_bytes(std::span(&value, 1))));
  }

  void select(const Function& f, unsigned offset) REQUIRES(bql) {
    port_out(0xcf8, 0x8000'0000U | f.slot << 11 | (offset & 0xfc), 4);
  }
  uint32_t config_in(Function& f, unsigned offset, unsigned size) REQUIRES(bql) {
    select(f, offset);
    return port_in(0xcfc + offset % 4, size);
  }
  void config_out(Function& f, unsigned offset, uint64_t value, unsigned size) REQUIRES(bql) {
    select(f, offset);
    port_out(0xcfc + offset % 4, static_cast<uint32_t>(value), size);
  }

  struct Target {
    Function* function;
    unsigned offset;
  };
  Target target(unsigned port) {
    const bool cycle = (config_address_ >> 31) != 0 && (config_address_ >> 16 & 0xff) == 0 &&
                       (config_address_ >> 8 & 7) == 0;
    for (Function& f : world_.functions()) {
      if (cycle && f.slot == (config_address_ >> 11 & 31)) {
        return {&f, (config_address_ & 0xfc) + port % 4};
      }
    }
    return {nullptr, 0};
  }

  uint32_t port_in(unsigned port, unsigned size) REQUIRES(bql) {
    const auto value = static_cast<uint32_t>(io().load({port}, size));
    const uint32_t ones = static_cast<uint32_t>((uint64_t{1} << (8 * size)) - 1);
    RHEA_CHECK((value & ~ones) == 0);
    if (port < 0xcfc) {
      if (size == 4) RHEA_CHECK(value == config_address_);
      return value;
    }
    const auto [function, offset] = target(port);
    if (function == nullptr) {
      RHEA_CHECK(value == ones, "nobody says {:#x}", value);
      return value;
    }
    check_dword(*function, offset & ~3U, value << (8 * (offset % 4)), ones << (8 * (offset % 4)));
    if (offset == function->access_capability + kData && function->virtio != nullptr) {
      check_indirect(*function, value, size);
    }
    return value;
  }
  void port_out(unsigned port, uint32_t value, unsigned size) REQUIRES(bql) {
    io().store({port}, value, size);
    if (port < 0xcfc) {
      if (size == 4) config_address_ = value & 0x80ff'fffc;
      return;
    }
    const auto [function, offset] = target(port);
    if (function == nullptr) return;
    function->config.write(offset, value, size);
    update_map(*function);
  }
  void update_map(const Function& f) {
    for (const BarModel& bar : f.bars) {
      (bar.io ? io_map_ : memory_map_).set(bar, f.config.address_of(bar));
    }
  }
  void point_at(Function& f, unsigned bar, uint32_t offset, unsigned size) REQUIRES(bql) {
    config_out(f, f.access_capability + 4, bar, 1);
    config_out(f, f.access_capability + 8, offset, 4);
    config_out(f, f.access_capability + 12, size, 4);
  }
  void common_out(Function& f, Reg reg, uint32_t value) REQUIRES(bql) {
    const bool wide = reg == Reg::kDriverFeatureSelect || reg == Reg::kDriverFeature ||
                      reg >= Reg::kQueueDescriptors;
    const unsigned size = reg == Reg::kStatus ? 1 : wide ? 4 : 2;
    point_at(f, 4, std::to_underlying(reg), size);
    config_out(f, f.access_capability + kData, value, size);
  }

  // Checks.

  void check() REQUIRES(bql) {
    memory_map_.check(*memory().pin());
    io_map_.check(*io().pin());
    std::array<bool, 4> wires{};
    for (const Function& f : world_.functions()) {
      for (unsigned offset = 0; offset < ConfigModel::kBytes; offset += 4) {
        if (f.virtio != nullptr && offset == f.access_capability + kData) continue;  // acts
        check_dword(f, offset, world_.config_read(f, offset, 4), UINT32_MAX);
      }
      const bool asks = (world_.config_read(f, 6, 2) & 8) != 0;
      if (asks && (f.config.read(4, 2) & 0x400) == 0) wires[(f.slot + f.pin - 1) % 4] = true;
      // A device that was reset and not set going since asks for nothing.
      RHEA_CHECK(!asks || f.virtio->device().status() != 0, "slot {}", f.slot);
      if (f.msi != nullptr) check_vectors(f);
    }
    for (unsigned i = 0; i < 4; ++i) RHEA_CHECK(world_.irq_level(i) == wires[i], "wire {}", i);
  }
  void check_dword(const Function& f, unsigned offset, uint32_t seen, uint32_t care) {
    const uint32_t wanted = f.config.read(offset, 4);
    RHEA_CHECK(f.config.agrees(offset, (seen & care) | (wanted & ~care)),
               "slot {} at {:#x}: {:#x}, not {:#x}", f.slot, offset, seen, wanted);
  }
  /// A load through the capability gives what the window gives, where looking twice does no harm.
  void check_indirect(const Function& f, uint32_t value, unsigned size) {
    bql.assert_held();
    const unsigned at = f.access_capability;
    const uint32_t offset = f.config.read(at + 8, 4), length = f.config.read(at + 12, 4);
    if (f.config.read(at + 4, 1) == 4 && offset == kPage && length == 1) {
      // Reading the ISR lowers the wire. [virtio-1.2 4.1.4.5]
      RHEA_CHECK((world_.config_read(f, 6, 2) & 8) == 0);
    }
    const bool harmless = offset / kPage == 0 || offset / kPage == 2;
    if (f.config.read(at + 4, 1) != 4 || !harmless || length > 4 || !std::has_single_bit(length) ||
        offset % length != 0) {
      return;
    }
    const auto& window = f.bars[1].pieces[offset / kPage];
    const uint64_t direct = window.handler->io_read(offset % kPage, length);
    const unsigned bytes = std::min(size, length);
    const uint64_t mask = (uint64_t{1} << (8 * bytes)) - 1;
    RHEA_CHECK((value & mask) == (direct & mask), "{:#x}, not {:#x}", value, direct);
  }
  /// A vector is connected to the message in its table entry exactly while nothing masks it.
  void check_vectors(const Function& f) REQUIRES(bql) {
    const uint32_t control = f.config.read(f.msix_capability + 2, 2);
    const auto& table = f.bars[0].pieces[0];
    for (unsigned i = 0; i < f.msi->vectors.size(); ++i) {
      const auto word = [&](unsigned at) {
        bql.assert_held();
        return table.handler->io_read(16 * i + at, 4);
      };
      const devices::MsiMessage message{.address = word(4) << 32 | word(0),
                                        .data = static_cast<uint32_t>(word(8))};
      const bool wanted = (control & 0xc000) == 0x8000 && (word(12) & 1) == 0 &&
                          FakeMsi::is_local_apic(message.address);
      const FakeMsi::Vector& vector = *f.msi->vectors[i];
      RHEA_CHECK(vector.connected() == wanted, "vector {}", i);
      RHEA_CHECK(!wanted || vector.message() == message, "vector {}", i);
    }
  }

  PciWorld world_;
  MapModel memory_map_{*world_.machine().memory().pin(), kSpaceBytes};
  MapModel io_map_{*world_.machine().io().pin(), kIoSpaceBytes};
  uint32_t config_address_ = 0;
};

}  // namespace
}  // namespace rhea::test

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea;
  static test::Guest guest;
  bql.assert_held();
  guest.run(test::Input({data, size}));
  return 0;
}
