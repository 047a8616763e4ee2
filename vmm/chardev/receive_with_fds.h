// receive_with_fds(): reads from a unix socket, and takes the descriptors that are passed.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

#include "util/fd.h"

namespace rhea::vmm {

/// What a read brought.
struct Received {
  ssize_t bytes = 0;      ///< as read(2) has it: 0 at the end, -1 with errno
  std::vector<Fd> fds{};  ///< passed with the first of the bytes
};

/// Whether the peer can pass descriptors.
bool passes_fds(int socket);

/// Reads what is there, without waiting, but only one byte while descriptors wait in the socket.
///
/// So the byte that they were passed with, the first of its message, is the first of the read which
/// brings them. A longer read does not tell: the kernel joins messages until one has descriptors,
/// and a command ahead of that one would find descriptors that are not for it.
///
/// Of each message CharFrontend::kMostFds descriptors are taken, or fewer where the process may not
/// have so many; the kernel closes the others. They are closed on exec.
Received receive_with_fds(int socket, std::span<std::byte> buffer);

}  // namespace rhea::vmm
