// Storage: the block layer of one machine: threads, nodes and disks.
#pragma once

#include <memory>

#include "block/graph.h"
#include "block/job.h"
#include "util/main_loop.h"
#include "util/thread_pool.h"
#include "vmm/config.h"
#include "vmm/disks.h"
#include "vmm/job_events.h"
#include "vmm/object_table.h"

namespace rhea::vmm {

/// What -object, -blockdev and -drive make, and the monitor changes.
///
/// Thread: main, service context, BQL held. Owns: its parts, in the order in which they may be used
/// by each other: objects, graph, disks. Invariants: devices have let go of their disks and
/// iothreads before it goes. It starts no thread before an object or a request asks for one.
class Storage {
 public:
  explicit Storage(MainLoop& loop) REQUIRES(bql);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  /// Errors: "-OPT VALUE: reason".
  Result<void> assemble(Gs& gs, const VmConfig& config);

  ObjectTable& objects() noexcept { return objects_; }
  block::Graph& graph() noexcept { return graph_; }
  Disks& disks() noexcept { return disks_; }
  block::Jobs& jobs() noexcept { return jobs_; }
  JobEvents& job_events() noexcept { return job_events_; }

  /// The machine has stopped: waits for what is under way, and puts it on stable storage. What does
  /// not end, or fails, is logged: the machine has stopped all the same.
  void settle(Gs& gs);
  /// How the last settle() went: a disk tells of a failed flush only once.
  const Result<void>& settled() const noexcept { return settled_; }

 private:
  Result<void> flush(Gs& gs);

  ThreadPool pool_;
  ObjectTable objects_;  // knows the graph, which goes before iothreads do
  block::Graph graph_;
  Disks disks_;
  JobEvents job_events_;
  block::Jobs jobs_;
  Result<void> settled_ = ok();
};

}  // namespace rhea::vmm
