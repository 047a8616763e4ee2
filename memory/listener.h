// MemoryListener: who must follow the shape of an address space (KVM slots, vhost, tests).
#pragma once

#include <cstdint>
#include <memory>

#include "memory/guest_addr.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::memory {

/// A contiguous piece of one region as it shows in an address space.
struct Section {
  const MemoryRegion* region = nullptr;
  GuestAddr base;
  uint64_t size_bytes = 0;
  uint64_t offset_in_region = 0;
  RamBlock* ram = nullptr;  ///< null unless RAM or ROM
  uint64_t offset_in_ram = 0;
  bool read_only = false;
  bool dirty_logging = false;
};

/// Callbacks on a change of one address space.
///
/// Thread: begin, region_*, doorbell_* and commit run under the BQL, once per change, never
/// concurrently, deletions before additions: additions in ascending address and listener priority,
/// deletions in the reverse order of both. They may not change the tree. Registering adds all that
/// is there, unregistering deletes it again, both within one begin..commit; so a listener that
/// follows the calls always ends with nothing. log_clear and log_sync run on any thread in an RCU
/// read section, maybe several at once: they lock for themselves (rank kMemslots). Lifetime: the
/// address space holds a strong reference; unregistering never blocks, is legal in a read section,
/// and drops the reference after a grace period. After it no new callback begins except by readers
/// that already hold the node, and those skip it once they see it dead.
class MemoryListener {
 public:
  virtual ~MemoryListener() = default;
  virtual void begin() {}
  virtual void commit() {}
  virtual void region_add(const Section&) {}
  virtual void region_del(const Section&) {}
  /// Dirty logging is switched on, of each RAM section; within begin..commit. A section added while
  /// it is on says so itself. Errors: it stays off: nobody else is told of it, and all are told
  /// log_stop(), for each section and whether or not they have begun it.
  virtual Result<void> log_start(const Section&) { return ok(); }
  /// It is off.
  virtual void log_stop(const Section&) {}
  /// The doorbell's address is base + (doorbell.offset - offset_in_region) of the section. Between
  /// the two calls the section may be cut or grown around it without a further one.
  virtual void doorbell_add(const Section&, const MemoryRegion::Doorbell&) {}
  virtual void doorbell_del(const Section&, const MemoryRegion::Doorbell&) {}
  /// Fetch the accelerator's dirty bits of a section into its RamBlock (DirtyBitmap::merge).
  virtual void log_sync(const Section&) {}
  /// Re-arm the accelerator's dirty tracking for [offset, offset + size) of the section.
  virtual void log_clear(const Section&, uint64_t /*offset*/, uint64_t /*size_bytes*/) {}
};

}  // namespace rhea::memory
