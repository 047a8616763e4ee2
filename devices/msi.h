// Message-signalled interrupts: what devices see of whoever delivers them.
#pragma once

#include <cstdint>
#include <memory>

#include "util/bql.h"
#include "util/error.h"

namespace rhea::devices {

/// The store that an interrupt is. [PCI-3.0 6.8.1]
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;
  friend bool operator==(const MsiMessage&, const MsiMessage&) = default;
};

/// One interrupt of a device. Signals are counted in an eventfd, which is connected to a message
/// while the vector is not masked, so that the host's kernel can deliver them by itself; while it
/// is masked they stay in the eventfd (G29).
///
/// Thread: signal() from any; all else under the BQL. Invariants: a signal that comes before
/// disconnect() has returned was delivered or is seen by pending(); none is delivered twice.
class MsiVector {
 public:
  virtual ~MsiVector() = default;
  /// Asks for the interrupt. No lock, no allocation.
  virtual void signal() noexcept = 0;
  /// Signals, those that came while disconnected included (once), go to `message` from here on.
  /// Connected already: from the old message to the new, and none is lost.
  /// Errors: `message` is not an interrupt here, or the host refuses; it is disconnected then.
  virtual Result<void> connect(const MsiMessage& message) REQUIRES(bql) = 0;
  virtual void disconnect() REQUIRES(bql) = 0;
  /// Whether a signal came that was not delivered, while disconnected.
  virtual bool pending() REQUIRES(bql) = 0;
  /// Forgets what came while disconnected.
  virtual void clear() REQUIRES(bql) = 0;
};

/// The machine's side: KVM routes and irqfds; under qtest, stores through the address space.
/// Thread: BQL. Invariants: outlives its vectors, which are destroyed under the BQL too.
class MsiRouter {
 public:
  virtual ~MsiRouter() = default;
  /// A vector that is not connected, with all that it needs to be: a device that has got its
  /// vectors does not run out later. Errors: kResource, the host has no descriptor or no more
  /// interrupt routes.
  virtual Result<std::unique_ptr<MsiVector>> add_vector() REQUIRES(bql) = 0;
};

}  // namespace rhea::devices
