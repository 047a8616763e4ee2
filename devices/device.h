// Device: what every emulated device has in common.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/guest_error.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::devices {

/// What the saved form of a device is. Two devices can take each other's state if kind, version and
/// schema are the same.
struct StateFormat {
  std::string_view kind;  ///< empty: there is nothing to save
  uint32_t version = 0;
  std::string schema;
};

/// An emulated device, from its creation to the moment its memory goes.
///
/// A device is made with std::make_shared, then realized, then its regions are mapped. Leaving
/// takes the same steps backwards, and apart from each other: its regions are unmapped, it is
/// unrealized (it lets go of its IRQ line, chardev and timers, and is quiet from then on), and it
/// is destroyed when the last FlatView that shows one of its regions has gone, on whatever thread
/// that happens: destruction frees plain memory and nothing else. A vCPU that found the device just
/// before may so still call it between unrealize and destruction: the handlers of an unrealized
/// device touch its own state and the machine's clock, no wire and no peer.
///
/// Thread: BQL. Owns: its regions, whose owner it becomes in realize().
/// Invariants: realized at most once; destroyed only if it is not realized.
class Device : public std::enable_shared_from_this<Device> {
 public:
  virtual ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// Takes what the device needs from the host and puts it in its reset state.
  /// Errors: those of the device; it can then only be destroyed.
  Result<void> realize() REQUIRES(bql);
  void unrealize() REQUIRES(bql);
  /// What the machine's reset line does to this device.
  virtual void reset() REQUIRES(bql) = 0;

  // Migration; see saved_device.h. Main, no vCPU runs and the block layer is drained.
  virtual StateFormat state_format() const { return {}; }
  /// What has to be equal where its state is loaded, and may differ from one device of this kind to
  /// another: words with blanks between them, "queues=2x128 block_size=512". It does not change
  /// while the machine moves.
  virtual std::string settings() const REQUIRES(bql) { return {}; }
  virtual std::vector<uint8_t> save() REQUIRES(bql) { return {}; }
  /// Decodes and judges the state of another device of the same make, from bytes that nobody
  /// vouches for, and changes nothing. What it returns makes the state this device's; it can not
  /// fail, and is called at once or not at all.
  /// Errors: kCorrupt, naming this device and the field.
  virtual Result<std::move_only_function<void()>> prepare_load(std::span<const uint8_t> bytes)
      REQUIRES(bql);
  /// The same at once, for a state of this kind and version. Errors: kUnsupported for another.
  Result<void> load(std::string_view kind, uint32_t version, std::span<const uint8_t> bytes)
      REQUIRES(bql);
  /// The machine runs from here on, with a state that was loaded: what waits in memory for a kick
  /// that the other side has had is looked at.
  virtual void resume_loaded() REQUIRES(bql) {}

  const std::string& id() const noexcept { return id_; }
  bool realized() const REQUIRES(bql) { return state_ == State::kRealized; }
  uint64_t guest_errors() const noexcept { return errors_.count(); }

 protected:
  explicit Device(std::string id) : id_(std::move(id)), errors_(id_) {}

  /// The device's part of realize(): acquire, and call own() for each region.
  virtual Result<void> do_realize() REQUIRES(bql) { return ok(); }
  /// The device's part of unrealize(): release what do_realize() took. Must not fail.
  virtual void do_unrealize() REQUIRES(bql) {}
  /// Makes this device the owner of `region`.
  void own(memory::MemoryRegion& region) REQUIRES(bql) { region.set_owner(weak_from_this()); }

  GuestErrors& errors() noexcept { return errors_; }

 private:
  enum class State : uint8_t { kCreated, kRealized, kUnrealized };
  const std::string id_;
  GuestErrors errors_;
  State state_ = State::kCreated;  // changes under the BQL; the destructor may run without it
};

}  // namespace rhea::devices
