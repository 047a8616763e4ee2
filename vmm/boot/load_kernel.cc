#include "vmm/boot/load_kernel.h"

#include <algorithm>
#include <array>
#include <span>

#include "vmm/boot/bzimage.h"
#include "vmm/boot/pvh.h"

namespace rhea::vmm {

Result<BootState> load_kernel(BootMemory& memory, const BootInputs& inputs) {
  std::array<std::byte, kBzImageHeadSize> buffer{};
  const auto head =
      std::span(buffer).first(std::min<uint64_t>(buffer.size(), inputs.kernel.size_bytes()));
  auto read = inputs.kernel.read(0, head);
  if (!read) return std::move(read).error().context(inputs.kernel.name());
  if (is_bzimage(head)) return load_bzimage(memory, inputs);
  if (is_elf(head)) return load_pvh(memory, inputs);
  return fail(ErrorKind::kInvalidArgument, "{}: not a kernel: neither a bzImage nor an ELF image",
              inputs.kernel.name());
}

Result<KernelFiles> KernelFiles::open(const std::string& kernel,
                                      const std::optional<std::string>& initrd) {
  auto kernel_file = TRY(FileSource::open("kernel", kernel));
  std::unique_ptr<FileSource> initrd_file;
  if (initrd) initrd_file = TRY(FileSource::open("initrd", *initrd));
  return KernelFiles(std::move(kernel_file), std::move(initrd_file));
}

}  // namespace rhea::vmm
