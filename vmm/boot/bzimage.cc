#include "vmm/boot/bzimage.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "util/check.h"
#include "vmm/boot/cpu_setup.h"
#include "vmm/boot/loader.h"
#include "vmm/boot/low_memory.h"
#include "vmm/pc_layout.h"

namespace rhea::vmm {
namespace {

using memory::GuestAddr;

constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint32_t kHeaderMagic = 0x5372'6448;  // "HdrS"
constexpr uint16_t kOldestVersion = 0x020c;     // 2.12: xloadflags
constexpr uint8_t kLoadedHigh = 1u << 0;
constexpr uint16_t kXlfKernel64 = 1u << 0;
constexpr uint16_t kXlfLoadableAbove4G = 1u << 1;
constexpr uint8_t kLoaderWithoutId = 0xff;

constexpr uint64_t kSectorSize = 512;
constexpr uint64_t kParagraphSize = 16;
constexpr uint8_t kDefaultSetupSects = 4;
constexpr uint64_t kFixedLoadAddress = 0x10'0000;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 30;
constexpr uint64_t kEntryOffset64 = 0x200;
/// jump_offset counts from here; the header reaches at least to the end of init_size.
constexpr size_t kHeaderEndBase = 0x202;
constexpr size_t kHeaderEndMin = 0x264;

/// Where the parts of a valid image go.
struct Plan {
  SetupHeader header;
  uint64_t kernel_offset = 0;  // of the protected-mode part in the file
  uint64_t kernel_size = 0;
  uint64_t load_address = 0;
  uint64_t kernel_end = 0;  // the first byte that it does not need to start
  LoadedRange initrd;
};

template <class... Args>
Error malformed(fmt::format_string<Args...> format, Args&&... args) {
  return fail(ErrorKind::kCorrupt, "not a valid bzImage: {}",
              fmt::format(format, std::forward<Args>(args)...));
}

SetupHeader header_of(std::span<const std::byte> head) {
  RHEA_CHECK(head.size() >= kBzImageHeadSize);
  SetupHeader header;
  std::memcpy(static_cast<void*>(&header), head.data() + kSetupHeaderOffset, sizeof header);
  return header;
}

/// Reads the header; what lies beyond the end that it states is not part of it, and reads as zero.
Result<SetupHeader> read_header(const ByteSource& kernel) {
  std::array<std::byte, kBzImageHeadSize> head{};
  TRY(kernel.read(0, head));
  const SetupHeader whole = header_of(head);
  const uint16_t version = whole.version;
  if (version < kOldestVersion) {
    return fail(ErrorKind::kUnsupported,
                "kernel too old: it has boot protocol {}.{:02}, 2.12 is needed", version >> 8,
                version & 0xff);
  }
  const size_t end = kHeaderEndBase + whole.jump_offset;
  if (end < kHeaderEndMin) return malformed("setup header ends at {:#x}", end);
  if (end < head.size()) std::ranges::fill(std::span(head).subspan(end), std::byte{0});
  return header_of(head);
}

Result<void> check_flags(const SetupHeader& header) {
  if ((header.loadflags & kLoadedHigh) == 0) {
    return fail(ErrorKind::kUnsupported, "kernel is a zImage, only a bzImage can be loaded");
  }
  if ((header.xloadflags & kXlfKernel64) == 0) {
    return fail(ErrorKind::kUnsupported, "kernel has no 64-bit entry point");
  }
  return ok();
}

/// Finds the protected-mode part and checks that the file holds all of it.
Result<void> find_kernel(Plan& plan, uint64_t file_size) {
  const SetupHeader& header = plan.header;
  const uint64_t sectors = header.setup_sects == 0 ? kDefaultSetupSects : header.setup_sects;
  plan.kernel_offset = (sectors + 1) * kSectorSize;
  const uint64_t wanted = header.syssize * kParagraphSize;
  if (file_size < plan.kernel_offset || file_size - plan.kernel_offset < wanted) {
    return fail(ErrorKind::kCorrupt, "truncated: {} bytes, but its header says {}", file_size,
                plan.kernel_offset + wanted);
  }
  plan.kernel_size = file_size - plan.kernel_offset;
  if (plan.kernel_size <= kEntryOffset64) return malformed("no code at its entry point");
  const uint64_t payload_end = uint64_t{header.payload_offset} + header.payload_length;
  if (header.payload_length == 0 || payload_end > plan.kernel_size) {
    return malformed("payload at {:#x}, {} bytes, is not inside the image",
                     header.payload_offset.value(), header.payload_length.value());
  }
  return ok();
}

/// Chooses the addresses. A relocatable kernel goes where it would move to anyway; init_size is
/// what it needs from there on, or from pref_address if it can not be relocated.
Result<void> place_kernel(Plan& plan, uint64_t ram_end) {
  const SetupHeader& header = plan.header;
  const uint64_t preferred = header.pref_address;
  uint64_t run_address = preferred;
  plan.load_address = kFixedLoadAddress;
  if (preferred < pc::kExtendedRam.value) return malformed("preferred address {:#x}", preferred);
  if (header.init_size == 0) return malformed("init_size is 0");
  if (header.relocatable_kernel != 0) {
    const uint64_t alignment = header.kernel_alignment;
    if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
      return malformed("kernel alignment {:#x}", alignment);
    }
    run_address =
        preferred < pc::kMaxLowRam ? (preferred + alignment - 1) & ~(alignment - 1) : preferred;
    plan.load_address = run_address;
  }
  const uint64_t most = std::max(plan.load_address, run_address);
  const uint64_t size = std::max<uint64_t>(plan.kernel_size, header.init_size);
  if (most >= ram_end || size > ram_end - most) {
    return fail(ErrorKind::kInvalidArgument,
                "kernel too big for RAM: it needs {} bytes from {:#x}, RAM below 4 GiB is {} MiB",
                size, most, ram_end >> 20);
  }
  plan.kernel_end = most + size;
  return ok();
}

Result<Plan> plan_kernel(const BootInputs& inputs) {
  Plan plan;
  plan.header = TRY(read_header(inputs.kernel));
  TRY(check_flags(plan.header));
  TRY(find_kernel(plan, inputs.kernel.size_bytes()));
  TRY(place_kernel(plan, inputs.layout.below_4g));
  return plan;
}

Result<Plan> make_plan(const BootInputs& inputs) {
  auto planned = plan_kernel(inputs);
  if (!planned) return std::move(planned).error().context(inputs.kernel.name());
  Plan plan = std::move(*planned);
  TRY(check_command_line(inputs.command_line, plan.header.cmdline_size));
  // initrd_addr_max stays at 2 GiB in kernels that can reach all of the first 4 GiB.
  const bool anywhere = (plan.header.xloadflags & kXlfLoadableAbove4G) != 0;
  const uint64_t limit =
      anywhere ? inputs.layout.below_4g
               : std::min(inputs.layout.below_4g, uint64_t{plan.header.initrd_addr_max} + 1);
  plan.initrd = TRY(place_initrd(inputs.initrd, plan.kernel_end, limit));
  return plan;
}

ZeroPage make_zero_page(const Plan& plan, const BootInputs& inputs) {
  ZeroPage page;
  page.acpi_rsdp_addr = inputs.rsdp.value;
  page.header = plan.header;
  page.header.type_of_loader = kLoaderWithoutId;
  page.header.code32_start = static_cast<uint32_t>(plan.load_address);
  page.header.ramdisk_image = static_cast<uint32_t>(plan.initrd.base.value);
  page.header.ramdisk_size = static_cast<uint32_t>(plan.initrd.size_bytes);
  page.header.cmd_line_ptr = static_cast<uint32_t>(low_memory::kCommandLine.value);
  page.header.setup_data = 0;
  const auto map = e820_map(inputs.layout);
  RHEA_CHECK(map.size() <= page.e820.size());
  page.e820_entries = static_cast<uint8_t>(map.size());
  std::ranges::transform(map, page.e820.begin(), [](const E820Range& range) {
    return ZeroPageRange{range.base.value, range.size_bytes, std::to_underlying(range.type)};
  });
  return page;
}

}  // namespace

bool is_bzimage(std::span<const std::byte> head) noexcept {
  if (head.size() < kBzImageHeadSize) return false;
  const SetupHeader header = header_of(head);
  return header.boot_flag == kBootFlag && header.header == kHeaderMagic;
}

Result<BootState> load_bzimage(BootMemory& memory, const BootInputs& inputs) {
  const Plan plan = TRY(make_plan(inputs));
  auto copied = memory.copy(GuestAddr{plan.load_address}, inputs.kernel, plan.kernel_offset,
                            plan.kernel_size);
  if (!copied) return std::move(copied).error().context(inputs.kernel.name());
  TRY(load_initrd(memory, inputs.initrd, plan.initrd));
  TRY(write_command_line(memory, inputs.command_line));
  TRY(memory.write_object(low_memory::kZeroPage, make_zero_page(plan, inputs)));
  BootState state = TRY(set_up_long_mode(memory));
  state.rip = plan.load_address + kEntryOffset64;
  state.rsi = low_memory::kZeroPage.value;
  return state;
}

}  // namespace rhea::vmm
