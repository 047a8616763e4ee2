// Loading a kernel and its initrd into guest RAM.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "memory/guest_addr.h"
#include "util/error.h"
#include "vmm/boot/boot_memory.h"
#include "vmm/boot/boot_state.h"
#include "vmm/boot/e820.h"

namespace rhea::vmm {

/// Everything a loader needs; borrowed for the call.
struct BootInputs {
  const ByteSource& kernel;
  const ByteSource* initrd = nullptr;  ///< may be null
  std::string_view command_line;
  const MemoryLayout& layout;
  memory::GuestAddr rsdp;  ///< where the ACPI tables begin
};

/// Loads a bzImage (by the 64-bit boot protocol) or a PVH ELF, whichever `inputs.kernel` is, and
/// returns how to enter it. Everything is validated before the first byte is written; RAM that was
/// used before (after a reset) is fine.
/// Errors: one line that names the file at fault; nothing in an image can make it fail otherwise.
Result<BootState> load_kernel(BootMemory& memory, const BootInputs& inputs);

/// The files of -kernel and -initrd, open.
class KernelFiles {
 public:
  static Result<KernelFiles> open(const std::string& kernel,
                                  const std::optional<std::string>& initrd);

  const ByteSource& kernel() const noexcept { return *kernel_; }
  const ByteSource* initrd() const noexcept { return initrd_.get(); }

 private:
  KernelFiles(std::unique_ptr<FileSource> kernel, std::unique_ptr<FileSource> initrd)
      : kernel_(std::move(kernel)), initrd_(std::move(initrd)) {}

  std::unique_ptr<FileSource> kernel_;  // never null
  std::unique_ptr<FileSource> initrd_;
};

}  // namespace rhea::vmm
