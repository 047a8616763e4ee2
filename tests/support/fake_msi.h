// FakeMsi: a recorder at the end of message-signalled interrupts.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "devices/msi.h"

namespace rhea::test {

/// Counts what is delivered, and keeps what is masked.
class FakeMsi final : public devices::MsiRouter {
 public:
  /// Which messages are interrupts: all, or those to a PC's local APICs.
  enum class Accepts : uint8_t { kAll, kLocalApics };
  explicit FakeMsi(Accepts accepts = Accepts::kAll) : accepts_(accepts) {}
  static bool is_local_apic(uint64_t address) { return address >> 20 == 0xfee; }

  class Vector final : public devices::MsiVector {
   public:
    explicit Vector(Accepts accepts) : accepts_(accepts) {}
    void signal() noexcept override {
      if (connected_.load()) {
        ++delivered_;
      } else {
        pending_ = true;
      }
    }
    Result<void> connect(const devices::MsiMessage& message) override REQUIRES(bql) {
      if (accepts_ == Accepts::kLocalApics && !is_local_apic(message.address)) {
        connected_ = false;
        return fail(ErrorKind::kInvalidArgument, "no interrupt at {:#x}", message.address);
      }
      message_ = message;
      connected_ = true;
      if (pending_.exchange(false)) ++delivered_;
      return ok();
    }
    void disconnect() override REQUIRES(bql) { connected_ = false; }
    bool pending() override REQUIRES(bql) { return pending_; }
    void clear() override REQUIRES(bql) { pending_ = false; }
    bool connected() const { return connected_; }
    unsigned delivered() const { return delivered_; }
    const devices::MsiMessage& message() const { return message_; }

   private:
    const Accepts accepts_;
    std::atomic<bool> connected_{false}, pending_{false};
    std::atomic<unsigned> delivered_{0};
    devices::MsiMessage message_;
  };

  Result<std::unique_ptr<devices::MsiVector>> add_vector() override REQUIRES(bql) {
    auto vector = std::make_unique<Vector>(accepts_);
    vectors.push_back(vector.get());
    return std::unique_ptr<devices::MsiVector>(std::move(vector));
  }
  std::vector<Vector*> vectors;

 private:
  const Accepts accepts_;
};

}  // namespace rhea::test
