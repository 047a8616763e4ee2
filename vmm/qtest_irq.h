// QtestIrqController: where interrupt wires end when no vCPU runs.
#pragma once

#include <array>
#include <string_view>

#include "devices/irq.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::vmm {

/// What a qtest client may watch and drive.
/// Thread: BQL.
class IrqInterceptor {
 public:
  virtual ~IrqInterceptor() = default;

  /// Sends every change of the wires that enter the device at `path` to `observer`, or none any
  /// more with null. Errors: kNotFound, no device of that name; kUnsupported, it has none.
  virtual Result<void> intercept_in(std::string_view path, devices::IrqSink* observer)
      REQUIRES(bql) = 0;
  /// The same for the wires that leave it.
  virtual Result<void> intercept_out(std::string_view path, devices::IrqSink* observer)
      REQUIRES(bql) = 0;
  /// Sets an input. Errors: as above, and kInvalidArgument for a line it does not have.
  virtual Result<void> set_irq_in(std::string_view path, std::string_view name, uint64_t line,
                                  bool level) REQUIRES(bql) = 0;
};

/// The machine's interrupt controller under qtest: it remembers levels and tells its observer of
/// changes. The paths "ioapic" and "/machine/ioapic" name its inputs, the GSIs; it has no outputs,
/// for there is no vCPU to interrupt.
/// Thread: BQL.
class QtestIrqController final : public devices::IrqSink, public IrqInterceptor {
 public:
  static constexpr unsigned kLines = 24;

  void set_irq(unsigned line, bool level) override;
  bool level(unsigned line) const { return levels_.at(line); }

  Result<void> intercept_in(std::string_view path, devices::IrqSink* observer) override
      REQUIRES(bql);
  Result<void> intercept_out(std::string_view path, devices::IrqSink* observer) override
      REQUIRES(bql);
  Result<void> set_irq_in(std::string_view path, std::string_view name, uint64_t line,
                          bool level) override REQUIRES(bql);

 private:
  std::array<bool, kLines> levels_{};
  devices::IrqSink* observer_ = nullptr;
};

}  // namespace rhea::vmm
