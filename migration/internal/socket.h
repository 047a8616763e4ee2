// Sockets for migration channels: names resolved, bound, connected.
#pragma once

#include "migration/address.h"
#include "migration/cancel.h"
#include "util/error.h"
#include "util/fd.h"

namespace rhea::migration::internal {

/// A connected, non-blocking stream socket.
Result<Fd> connect_socket(const Address& address, const Cancel& cancel);

struct ListeningSocket {
  Fd fd;
  Address address;  ///< with the port that was bound
};
Result<ListeningSocket> listen_socket(const Address& address);

/// A page is not to wait for the next one's company.
void set_no_delay(int fd) noexcept;

}  // namespace rhea::migration::internal
