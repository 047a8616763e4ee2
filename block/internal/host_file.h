// Opening a file or block device of the host as an image, and what it says of itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "block/driver.h"
#include "util/error.h"
#include "util/fd.h"

namespace rhea::block::internal {

struct OpenMode {
  bool writable = true;
  bool direct = false;  ///< past the page cache
  friend bool operator==(const OpenMode&, const OpenMode&) = default;
};

/// What a driver opens.
enum class HostFileKind : uint8_t {
  kAny,          ///< a regular file or a block device
  kBlockDevice,  ///< nothing else
};

/// An open image, and what does not change while it is open.
struct HostFile {
  Fd fd;
  OpenMode mode;
  bool is_block_device = false;
  dev_t device = 0;  ///< of the file system, or of the block device itself
  ino_t inode = 0;
  BlockLimits limits;

  bool is_same_file(const HostFile& other) const noexcept {
    return device == other.device && inode == other.inode;
  }
};

/// Opens what `kind` says; never waits for the other end of a pipe.
/// Errors: "Could not open 'x': No such file or directory"; another kind of file; a file system
/// without direct I/O. kPermission when it is read-only and the mode is not.
Result<HostFile> open_host_file(const std::string& filename, OpenMode mode,
                                HostFileKind kind = HostFileKind::kAny);

/// `fd` is the file's. Units: bytes; of a regular file rounded up to whole sectors of 512.
Result<uint64_t> host_file_length(const HostFile& file, int fd);

}  // namespace rhea::block::internal
