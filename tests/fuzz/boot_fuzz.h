// What the fuzz targets of the boot loaders share.
#pragma once

#include <cstdint>
#include <span>

#include "tests/unit/vmm/boot/boot_support.h"
#include "util/check.h"

namespace rhea::vmm::test {

/// RAM that only checks where a loader writes.
class CheckedMemory final : public BootMemory {
 public:
  explicit CheckedMemory(uint64_t size_bytes) : size_bytes_(size_bytes) {}
  Result<void> write(memory::GuestAddr address, std::span<const std::byte> data) override {
    RHEA_CHECK(address.value <= size_bytes_ && data.size() <= size_bytes_ - address.value,
               "{} bytes at {:#x}", data.size(), address.value);
    return ok();
  }

 private:
  const uint64_t size_bytes_;
};

/// Loads `image` with an initrd: any result is fine but a write outside RAM, an entry point outside
/// the RAM above 1 MiB, and an error that is not one line with the file's name.
inline void fuzz_loader(std::span<const uint8_t> image) {
  constexpr uint64_t kRam = 32 * kMiB;
  const auto bytes = std::as_bytes(image);
  const FakeSource kernel("kernel file 'k'", Bytes(bytes.begin(), bytes.end()));
  const FakeSource initrd("initrd file 'i'", Bytes(5000));
  const MemoryLayout layout = MUST(MemoryLayout::create(kRam, 46));
  CheckedMemory ram(kRam);
  const auto state =
      load_kernel(ram, {kernel, &initrd, "console=ttyS0", layout, memory::GuestAddr{0xe'0000}});
  if (state) {
    RHEA_CHECK(state->rip >= kMiB && state->rip < kRam, "rip {:#x}", state->rip);
    return;
  }
  const std::string& text = state.error().message();
  RHEA_CHECK(text.find(" file '") != std::string::npos || text.starts_with("kernel command line"));
  RHEA_CHECK(text.find('\n') == std::string::npos);
}

}  // namespace rhea::vmm::test
