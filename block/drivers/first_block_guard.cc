#include "block/drivers/first_block_guard.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "block/aligned_buffer.h"

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

Result<void> FirstBlockGuard::open(Gs&, OpenRequest& request) {
  below_ = TRY(request.open_child("file"));
  return ok();
}

Result<std::unique_ptr<ReopenState>> FirstBlockGuard::reopen(Gs&, OpenRequest& request) {
  TRY(request.open_child("file"));
  return std::unique_ptr<ReopenState>();
}

/// Whether the first block would still be raw once `memory` is written at `offset`.
Result<void> FirstBlockGuard::check(Co& co, uint64_t offset, IoVector memory) {
  std::array<std::byte, kFormatProbeBytes> first{};
  const size_t size = std::min<uint64_t>(first.size(), below_->node()->length());
  const size_t written = std::min(memory.size, size - offset);
  if (written < size) {
    iovec piece{.iov_base = first.data(), .iov_len = size};
    TRY(below_->node()->co_read(co, 0, IoVector::of(std::span(&piece, 1))));
  }
  memory.copy_to(0, std::span(first).subspan(offset, written));
  const std::string_view format = recognise_format(std::span(first).first(size));
  if (format.empty()) return ok();
  return fail(ErrorKind::kPermission,
              "a write to the first block would give the image the format '{}', and its own was "
              "not specified",
              format);
}

Result<void> FirstBlockGuard::co_read(Co& co, uint64_t offset, IoVector memory) {
  return below_->node()->co_read(co, offset, memory);
}

Result<void> FirstBlockGuard::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  if (offset >= kFormatProbeBytes || memory.size == 0) {
    return below_->node()->co_write(co, offset, memory, flags);
  }
  const CoMutexLock alone(co, first_block_);
  TRY(check(co, offset, memory));
  return below_->node()->co_write(co, offset, memory, flags);
}

Result<void> FirstBlockGuard::co_write_zeroes(Co& co, uint64_t offset, uint64_t size,
                                              WriteFlags flags) {
  return below_->node()->co_write_zeroes(co, offset, size, flags);
}

Result<void> FirstBlockGuard::co_discard(Co& co, uint64_t offset, uint64_t size) {
  return below_->node()->co_discard(co, offset, size);
}

Result<void> FirstBlockGuard::co_flush(Co& co) { return below_->node()->co_flush(co); }

Result<void> FirstBlockGuard::co_resize(Co& co, uint64_t size) {
  return below_->node()->co_resize(co, size);
}

Result<BlockStatus> FirstBlockGuard::co_status(Co& co, uint64_t offset, uint64_t size) {
  return below_->node()->co_status(co, offset, size);
}

}  // namespace rhea::block
