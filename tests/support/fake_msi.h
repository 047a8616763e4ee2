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

  /// Everything is one word, so that a signal meets connect() and disconnect() before or after.
  class Vector final : public devices::MsiVector {
   public:
    explicit Vector(Accepts accepts) : accepts_(accepts) {}
    void signal() noexcept override {
      change([](uint64_t now) { return now & kConnected ? now + kDelivered : now | kPending; });
    }
    Result<void> connect(const devices::MsiMessage& message) override REQUIRES(bql) {
      if (accepts_ == Accepts::kLocalApics && !is_local_apic(message.address)) {
        disconnect();
        return fail(ErrorKind::kInvalidArgument, "no interrupt at {:#x}", message.address);
      }
      message_ = message;
      change([](uint64_t now) {
        return ((now & kPending ? now + kDelivered : now) & ~kPending) | kConnected;
      });
      return ok();
    }
    void disconnect() override REQUIRES(bql) { state_ &= ~kConnected; }
    bool pending() override REQUIRES(bql) { return (state_ & kPending) != 0; }
    void clear() override REQUIRES(bql) { state_ &= ~kPending; }
    uint64_t delivered() const { return state_ / kDelivered; }
    bool connected() const { return (state_ & kConnected) != 0; }
    const devices::MsiMessage& message() const { return message_; }

   private:
    static constexpr uint64_t kConnected = 1, kPending = 2, kDelivered = 4;  // the rest counts

    template <class F>
    void change(F&& next) noexcept {
      uint64_t now = state_.load();
      while (!state_.compare_exchange_weak(now, next(now))) {
      }
    }
    const Accepts accepts_;
    std::atomic<uint64_t> state_{0};
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
