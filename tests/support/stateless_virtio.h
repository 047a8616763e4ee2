// StatelessVirtio: a base for virtio devices of tests, with nothing of their own to save.
#pragma once

#include "devices/virtio/saved_virtio.h"

namespace rhea::test {

struct NoVirtioState {
  static constexpr std::string_view kKind = "test-virtio";
  static constexpr uint32_t kVersion = 1;
  template <class Visitor, class Self>
  static void describe(Visitor&, Self&) {}
};

class StatelessVirtio : public devices::SavedVirtio<NoVirtioState> {
 protected:
  using SavedVirtio::SavedVirtio;
  NoVirtioState own_state() override REQUIRES(bql) { return {}; }
  Result<void> check_own(const NoVirtioState&) const override REQUIRES(bql) { return ok(); }
  void set_own(const NoVirtioState&) override REQUIRES(bql) {}
};

}  // namespace rhea::test
