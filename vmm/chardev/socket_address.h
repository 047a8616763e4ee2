// Sockets that listen or connect, by path or by host and port.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "util/error.h"
#include "util/fd.h"

namespace rhea::vmm {

/// The file a listening unix socket made. Removes it when it goes, unless another took its place.
class SocketFile {
 public:
  SocketFile() = default;
  /// `path` must be bound just now.
  explicit SocketFile(std::string path);
  SocketFile(SocketFile&& other) noexcept;
  SocketFile& operator=(SocketFile&& other) noexcept;
  ~SocketFile();

 private:
  std::string path_;  // empty: none
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

struct UnixListener {
  Fd fd;
  SocketFile file;
};
/// Listens at `path`, mode 0600 from the first moment. A socket that is there already is replaced,
/// as QEMU does; anything else that is there is not ours to remove: kExists.
Result<UnixListener> listen_unix(const std::string& path);
Result<Fd> connect_unix(const std::string& path);

/// An empty host listens everywhere, and connects to this host.
Result<Fd> listen_tcp(const std::string& host, uint16_t port);
Result<Fd> connect_tcp(const std::string& host, uint16_t port);

/// The path a unix socket is bound to; empty if none, or another family.
std::string local_path(int fd);
/// "host:port" of a socket's own end or its peer's; empty for another family.
std::string local_address(int fd);
std::string peer_address(int fd);

}  // namespace rhea::vmm
