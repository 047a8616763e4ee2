#include "block/drivers/first_block_guard.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "block/aligned_buffer.h"
#include "block/node.h"

namespace rhea::block {
namespace {

struct Magic {
  std::string_view format;
  size_t offset;
  std::string_view bytes;
};
using namespace std::string_view_literals;
constexpr std::array kMagics{
    Magic{"qcow2", 0, "QFI\xfb"sv},
    Magic{"qed", 0, "QED\0"sv},
    Magic{"vmdk", 0, "KDMV"sv},
    Magic{"vmdk", 0, "COWD"sv},
    Magic{"vmdk", 0, "# Disk DescriptorFile"sv},
    Magic{"vhdx", 0, "vhdxfile"sv},
    Magic{"vpc", 0, "conectix"sv},
    Magic{"luks", 0, "LUKS\xba\xbe"sv},
    Magic{"parallels", 0, "WithoutFreeSpace"sv},
    Magic{"parallels", 0, "WithouFreSpacExt"sv},
    Magic{"vdi", 64, "\x7f\x10\xda\xbe"sv},
};

}  // namespace

std::string_view recognise_format(std::span<const std::byte> first) noexcept {
  for (const Magic& magic : kMagics) {
    if (magic.offset + magic.bytes.size() > first.size()) continue;
    if (std::memcmp(first.data() + magic.offset, magic.bytes.data(), magic.bytes.size()) == 0) {
      return magic.format;
    }
  }
  return {};
}

/// Whether the first block would still be raw once `memory` is written at `offset`.
Result<void> FirstBlockGuard::check(Co& co, uint64_t offset, IoVector memory) {
  std::array<std::byte, kFormatProbeBytes> first{};
  const size_t size = std::min<uint64_t>(first.size(), below().length());
  const size_t written = std::min(memory.size, size - offset);
  if (written < size) {
    iovec piece{.iov_base = first.data(), .iov_len = size};
    TRY(below().co_read(co, 0, IoVector::of(std::span(&piece, 1))));
  }
  memory.copy_to(0, std::span(first).subspan(offset, written));
  const std::string_view format = recognise_format(std::span(first).first(size));
  if (format.empty()) return ok();
  return fail(ErrorKind::kPermission,
              "a write to the first block would give the image the format '{}', and its own was "
              "not specified",
              format);
}

Result<void> FirstBlockGuard::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  if (offset >= kFormatProbeBytes || memory.size == 0) {
    return below().co_write(co, offset, memory, flags);
  }
  const CoMutexLock alone(co, first_block_);
  TRY(check(co, offset, memory));
  return below().co_write(co, offset, memory, flags);
}

}  // namespace rhea::block
