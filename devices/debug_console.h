// DebugConsole: a port that prints. Firmware and small guests write characters to it.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "devices/chardev.h"
#include "devices/saved_device.h"
#include "memory/io_handler.h"

namespace rhea::devices {

struct DebugConsoleState {
  static constexpr std::string_view kKind = "debug-console";
  static constexpr uint32_t kVersion = 1;
  static constexpr size_t kMaxPendingBytes = 65'536;
  std::vector<uint8_t> pending;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("pending", s.pending, kMaxPendingBytes);
  }
};

/// A store prints its byte, a load gives 0xe9, by which guests know that it is there. There is no
/// way to tell a guest to wait, so what a slow peer does not take is kept up to a limit.
/// Thread: BQL. Errors: bytes above the limit are dropped and reported.
class DebugConsole final : public SavedDevice<DebugConsoleState>,
                           public memory::IoHandler,
                           private CharFrontend {
 public:
  static constexpr uint8_t kMagic = 0xe9;
  static constexpr size_t kMaxPendingBytes = DebugConsoleState::kMaxPendingBytes;
  static constexpr memory::IoAccess kAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 1, .unaligned = true};

  explicit DebugConsole(std::string id);

  void set_backend(CharBackend* backend) REQUIRES(bql) { backend_ = backend; }  ///< before realize
  memory::MemoryRegion& io() noexcept { return io_; }

  void reset() override REQUIRES(bql) {}
  void resume_loaded() override REQUIRES(bql) { can_write(); }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size) override;

 private:
  Result<void> do_realize() override REQUIRES(bql);
  void do_unrealize() override REQUIRES(bql);
  DebugConsoleState state() override REQUIRES(bql);
  Result<void> check_state(const DebugConsoleState&) const override REQUIRES(bql) { return ok(); }
  void set_state(const DebugConsoleState& state) override REQUIRES(bql);
  size_t can_receive() override { return 0; }
  void receive(std::span<const std::byte>) override {}
  void can_write() override;

  CharBackend* backend_ GUARDED_BY(bql) = nullptr;
  memory::MemoryRegion io_;
  std::deque<std::byte> pending_ GUARDED_BY(bql);
};

}  // namespace rhea::devices
