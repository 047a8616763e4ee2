// EventVector: the half of an interrupt vector that both accelerators share: its eventfd.
#pragma once

#include <poll.h>

#include <utility>

#include "devices/msi.h"
#include "util/bql.h"
#include "util/fd.h"

namespace rhea::vmm {

/// See MsiVector. Whoever watches the eventfd while the vector is connected empties it; while it
/// is not, what it counts is what is pending.
class EventVector : public devices::MsiVector {
 public:
  void signal() noexcept final { signal_eventfd(event_.get()); }
  bool pending() final REQUIRES(bql) {
    pollfd ready{.fd = event_.get(), .events = POLLIN, .revents = 0};
    return ::poll(&ready, 1, 0) == 1;
  }
  void clear() final REQUIRES(bql) { clear_eventfd(event_.get()); }

 protected:
  explicit EventVector(Fd event) : event_(std::move(event)) {}
  int event() const noexcept { return event_.get(); }

 private:
  const Fd event_;
};

}  // namespace rhea::vmm
