#include "vmm/qtest_irq.h"

#include <utility>

#include "util/check.h"

namespace rhea::vmm {
namespace {

Result<void> check_path(std::string_view path) {
  if (path == "ioapic" || path == "/machine/ioapic") return ok();
  return fail(ErrorKind::kNotFound, "Unknown device '{}'; there is: ioapic", path);
}

}  // namespace

void QtestIrqController::set_irq(unsigned line, bool level) {
  RHEA_CHECK(line < kLines);
  if (std::exchange(levels_[line], level) == level) return;
  if (observer_ != nullptr) observer_->set_irq(line, level);
}

Result<void> QtestIrqController::intercept_in(std::string_view path, devices::IrqSink* observer) {
  TRY(check_path(path));
  observer_ = observer;
  return ok();
}

Result<void> QtestIrqController::intercept_out(std::string_view path, devices::IrqSink*) {
  TRY(check_path(path));
  return fail(ErrorKind::kUnsupported, "'{}' has no outputs", path);
}

Result<void> QtestIrqController::set_irq_in(std::string_view path, std::string_view name,
                                            uint64_t line, bool level) {
  TRY(check_path(path));
  if (name != "unnamed-gpio-in") {
    return fail(ErrorKind::kInvalidArgument, "'{}' has no inputs named '{}'", path, name);
  }
  if (line >= kLines) {
    return fail(ErrorKind::kInvalidArgument, "'{}' has {} inputs, no number {}", path, kLines,
                line);
  }
  set_irq(static_cast<unsigned>(line), level);
  return ok();
}

}  // namespace rhea::vmm
