// BootMemory and ByteSource: what the boot loaders write to and read from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "memory/address_space.h"
#include "memory/guest_addr.h"
#include "util/error.h"
#include "util/fd.h"

namespace rhea::vmm {

/// Bytes of an image that somebody else made and may still be changing.
/// Errors: kCorrupt for a read beyond the end ("truncated").
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// What a message calls it: "kernel file '/boot/vmlinuz'".
  virtual const std::string& name() const noexcept = 0;
  virtual uint64_t size_bytes() const noexcept = 0;
  /// Fills `data` from `offset`, or fails.
  Result<void> read(uint64_t offset, std::span<std::byte> data) const;

 protected:
  /// As read(), with the range known to lie inside size_bytes().
  virtual Result<void> do_read(uint64_t offset, std::span<std::byte> data) const = 0;
};

/// A regular file, held open so that a reset of the machine loads the same file again. Read with
/// pread and never mapped: a file that shrinks while it is loaded gives an error, not SIGBUS.
class FileSource final : public ByteSource {
 public:
  /// Opens `path`; `role` ("kernel", "initrd") names it in messages.
  /// Errors: it does not exist, may not be read, is not a regular file, or is empty.
  static Result<std::unique_ptr<FileSource>> open(std::string_view role, const std::string& path);

  const std::string& name() const noexcept override { return name_; }
  uint64_t size_bytes() const noexcept override { return size_bytes_; }

 private:
  FileSource(Fd fd, std::string name, uint64_t size_bytes)
      : fd_(std::move(fd)), name_(std::move(name)), size_bytes_(size_bytes) {}
  Result<void> do_read(uint64_t offset, std::span<std::byte> data) const override;

  const Fd fd_;
  const std::string name_;
  const uint64_t size_bytes_;
};

/// Guest RAM as a boot loader sees it.
/// Errors: a range that is not RAM.
class BootMemory {
 public:
  virtual ~BootMemory() = default;
  virtual Result<void> write(memory::GuestAddr address, std::span<const std::byte> data) = 0;

  template <memory::GuestPod T>
  Result<void> write_object(memory::GuestAddr address, const T& value) {
    return write(address, std::as_bytes(std::span(&value, 1)));
  }
  Result<void> zero(memory::GuestAddr address, uint64_t size_bytes);
  /// Copies `size_bytes` at `offset` of `source` through a buffer that stays in the CPU's cache.
  Result<void> copy(memory::GuestAddr address, const ByteSource& source, uint64_t offset,
                    uint64_t size_bytes);
};

/// The machine's RAM.
class AddressSpaceMemory final : public BootMemory {
 public:
  explicit AddressSpaceMemory(memory::AddressSpace& space) : space_(space) {}
  Result<void> write(memory::GuestAddr address, std::span<const std::byte> data) override {
    return space_.write_ram(address, data);
  }

 private:
  memory::AddressSpace& space_;
};

}  // namespace rhea::vmm
