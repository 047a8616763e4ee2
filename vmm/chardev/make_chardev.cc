#include <csignal>
#include <utility>

#include "vmm/chardev/chardev.h"
#include "vmm/chardev/mux_chardev.h"
#include "vmm/chardev/pty_chardev.h"
#include "vmm/chardev/simple_chardevs.h"
#include "vmm/chardev/socket_chardev.h"

namespace rhea::vmm {

namespace {

Result<std::unique_ptr<Chardev>> make_plain(const ChardevConfig& config, AioContext& context) {
  switch (config.type) {
    case ChardevConfig::Type::kNull:
      return make_null_chardev(config);
    case ChardevConfig::Type::kStdio:
      return make_stdio_chardev(config, context);
    case ChardevConfig::Type::kFile:
      return make_file_chardev(config, context);
    case ChardevConfig::Type::kPty:
      return TRY(PtyChardev::create(config, context));
    case ChardevConfig::Type::kUnixSocket:
    case ChardevConfig::Type::kTcpSocket:
      return TRY(SocketChardev::create(config, context));
  }
  RHEA_UNREACHABLE("chardev type {}", static_cast<unsigned>(config.type));
}

}  // namespace

Result<std::unique_ptr<Chardev>> make_chardev(const ChardevConfig& config, AioContext& context,
                                              ChardevHooks hooks) {
  std::signal(SIGPIPE, SIG_IGN);
  auto chardev = TRY(make_plain(config, context));
  if (!config.mux) return chardev;
  return std::make_unique<MuxChardev>(std::move(chardev), context, std::move(hooks));
}

}  // namespace rhea::vmm
