#include "vmm/qmp/fd_commands.h"

#include <string>

namespace rhea::vmm {
namespace {

QmpResult getfd(const Json& arguments, NamedFds& fds) {
  TRY(fds.name_waiting(arguments["fdname"].get_ref<const std::string&>()));
  return qmp_done();
}

QmpResult closefd(const Json& arguments, NamedFds& fds) {
  TRY(fds.close(arguments["fdname"].get_ref<const std::string&>()));
  return qmp_done();
}

}  // namespace

void add_fd_commands(QmpCommandTable& table) {
  table.add({"getfd", {{"fdname", QmpType::kString}}, getfd});
  table.add({"closefd", {{"fdname", QmpType::kString}}, closefd});
}

}  // namespace rhea::vmm
