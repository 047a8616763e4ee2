#include "util/check.h"

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace rhea {

void check_failed(const char* condition, const char* file, int line,
                  std::string_view message) noexcept {
  const std::string text = fmt::format("rhea: {}:{}: check failed: {}{}{}\n", file, line, condition,
                                       message.empty() ? "" : ": ", message);
  // write(2), not a logger: a failed check may hold any lock, the logger's included.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
  std::abort();
}

}  // namespace rhea
