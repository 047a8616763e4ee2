// IrqLine: a wire from a device to whoever delivers interrupts.
#pragma once

namespace rhea::devices {

/// Where wires end: the KVM irqchip, the qtest interceptor, a test's recorder.
/// Thread: BQL, or any thread if the implementation says so (KVM's does).
class IrqSink {
 public:
  virtual ~IrqSink() = default;
  virtual void set_irq(unsigned line, bool level) = 0;
};

/// One wire: a sink and a line number. Copyable; the sink outlives it. A default-made one is
/// not connected and swallows everything.
class IrqLine {
 public:
  IrqLine() = default;
  IrqLine(IrqSink& sink, unsigned line) : sink_(&sink), line_(line) {}

  void set(bool level) const {
    if (sink_ != nullptr) sink_->set_irq(line_, level);
  }
  void raise() const { set(true); }
  void lower() const { set(false); }

 private:
  IrqSink* sink_ = nullptr;
  unsigned line_ = 0;
};

}  // namespace rhea::devices
