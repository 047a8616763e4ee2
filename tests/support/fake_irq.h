// FakeIrq: a recorder at the end of IRQ wires.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "devices/irq.h"

namespace rhea::test {

/// Remembers each line's level and counts its rising edges.
class FakeIrq final : public devices::IrqSink {
 public:
  static constexpr unsigned kLines = 32;

  devices::IrqLine line(unsigned number) { return {*this, number}; }
  void set_irq(unsigned number, bool level) override {
    if (level && !levels_.at(number)) ++edges_.at(number);
    levels_.at(number) = level;
  }
  bool level(unsigned number) const { return levels_.at(number); }
  /// Rising edges since the last call.
  unsigned take_edges(unsigned number) { return std::exchange(edges_.at(number), 0U); }

 private:
  std::array<bool, kLines> levels_{};
  std::array<unsigned, kLines> edges_{};
};

}  // namespace rhea::test
