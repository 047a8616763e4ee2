// Pairs of channels for the tests of migration/.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "migration/channel.h"
#include "util/check.h"

namespace rhea::migration::test {

using ChannelPtr = std::unique_ptr<Channel>;

inline std::shared_ptr<Cancel> make_cancel() { return MUST(Cancel::create()); }

inline ChannelPtr channel_on(Fd fd, std::shared_ptr<Cancel> cancel = make_cancel()) {
  return MUST(Channel::create(std::move(fd), std::move(cancel)));
}

inline std::pair<Fd, Fd> socket_pair() {
  int fds[2];
  RHEA_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

struct Ends {
  ChannelPtr out;
  ChannelPtr in;
};

inline Ends socket_ends() {
  auto [a, b] = socket_pair();
  return {channel_on(std::move(a)), channel_on(std::move(b))};
}

inline Ends pipe_ends() {
  Pipe pipe = MUST(make_pipe());
  return {channel_on(std::move(pipe.write)), channel_on(std::move(pipe.read))};
}

inline std::vector<std::byte> random_bytes(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

}  // namespace rhea::migration::test
