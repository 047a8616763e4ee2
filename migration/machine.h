// Machine: what a migration asks of the machine that it moves.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory/ram_block.h"
#include "migration/manifest.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::migration {

/// One saved state: of a device, of a vCPU, of the clock.
struct DeviceState {
  std::string path;  ///< as in Manifest::devices
  std::vector<uint8_t> state;
  static constexpr size_t kMaxBytes = 15 << 20;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("path", s.path, 255);
    v.field("state", s.state, kMaxBytes);
  }
};

/// Thread: main, service context, BQL held, at the top: a call may drain. None waits for a peer.
class Machine {
 public:
  virtual ~Machine() = default;

  virtual Manifest manifest() REQUIRES(bql) = 0;
  /// In the order of manifest().ram.
  virtual std::vector<std::shared_ptr<memory::RamBlock>> ram() REQUIRES(bql) = 0;

  // The source's.

  /// Notes which pages are written from here on. Errors: the host cannot.
  virtual Result<void> start_dirty_log() REQUIRES(bql) = 0;
  virtual void stop_dirty_log() REQUIRES(bql) = 0;
  /// Has each vCPU stand still for `percent` of the time: 0 to 99, and 0 is full speed.
  virtual void throttle(unsigned percent) REQUIRES(bql) = 0;
  /// vCPUs stand still, no request is under way, and what was written is on stable storage.
  /// Errors: it is not, and the machine runs as it did.
  virtual Result<void> stop() REQUIRES(bql) = 0;
  /// Whether it ran before stop(): so it is to go on.
  virtual bool ran() const REQUIRES(bql) = 0;
  /// All of the manifest's states, of the machine that stands still. Errors: one cannot be saved.
  virtual Result<std::vector<DeviceState>> save() REQUIRES(bql) = 0;
  /// Goes on as before stop().
  virtual void resume() REQUIRES(bql) = 0;
  /// It is the other's now: it does not go on by itself.
  virtual void leave() REQUIRES(bql) = 0;
  /// Nobody knows whose it is, or somebody else has its images: paused, until somebody decides.
  virtual void stay() REQUIRES(bql) = 0;

  // The destination's.

  /// Whether it is to run once it is here, if it ran there.
  virtual bool run_on_arrival() const REQUIRES(bql) = 0;
  /// Takes the states, in the manifest's order. Errors: names the device; the machine is of no use
  /// then.
  virtual Result<void> load(const std::vector<DeviceState>& states) REQUIRES(bql) = 0;
  /// Runs what was loaded.
  virtual Result<void> run() REQUIRES(bql) = 0;

  // Of both: the images' locks.

  /// Errors: names the image that somebody else has; none is locked then.
  virtual Result<void> take_locks() REQUIRES(bql) = 0;
  /// Nothing is written to the images from here on. Errors: what is still to be written can not be;
  /// the locks are held as before.
  virtual Result<void> release_locks() REQUIRES(bql) = 0;
};

}  // namespace rhea::migration
