// Mirror: copies a node to another while the guest writes, then puts the copy in its place.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/dirty_map.h"
#include "block/job.h"

namespace rhea::block {

/// blockdev-mirror's arguments. Units: bytes.
struct MirrorConfig {
  std::string id;
  std::string filter_name;  ///< of the node that watches the writes; empty: one is made up
  uint64_t speed = 0;       ///< bytes a second; 0: no limit
  uint64_t granularity = 65536;
};

/// The job, sync=full.
///
/// A filter goes in above the source and marks what the guest has written, after it was written.
/// The job clears marks before it reads: so a write beside the copy leaves its mark, and the next
/// round takes it, when that copy has ended: of two copies of one part the older might land last.
/// Once nothing is marked the job is ready; from then on it follows. Its last step,
/// on main: drain, copy what is left, lead the source's users to the target.
///
/// Thread: see Job.
class Mirror final : public Job {
 public:
  /// Sets up on main, at the top. Errors: the target is too small; permissions; drains.
  static Result<std::unique_ptr<Mirror>> create(Gs& gs, Graph& graph, Node& source, Node& target,
                                                const MirrorConfig& config);
  ~Mirror() override;

  std::string_view type() const noexcept override { return "mirror"; }
  const Node& source() const noexcept { return *source_; }

 private:
  class Filter;
  static constexpr uint64_t kStepBytes = uint64_t{1} << 20;
  static constexpr unsigned kHelpers = 8;

  Mirror(Graph& graph, const MirrorConfig& config, Node& source, Node& target, AioContext& context);
  Result<void> set_up(Gs& gs, const MirrorConfig& config);

  Result<void> work(Co& co) override;
  Result<void> finish(Gs& gs, bool pivot) override;
  void clean_up(Gs& gs) override;

  Result<void> copy(Co& co, DirtyMap::Run run);
  Result<void> copy_rest(Co& co);
  bool start_copy();
  void end_copy(const DirtyMap::Run& run);
  bool is_under_way(const DirtyMap::Run& run) const;
  void throttle(Co& co);

  NodeRef source_, target_, filter_;
  std::shared_ptr<DirtyMap> dirty_;
  BlockBackend from_, to_;
  bool in_place_ = false;  // the filter is above the source

  // The job's context.
  uint64_t next_ = 0;  // where the next run is looked for
  unsigned helpers_ = 0;
  std::vector<DirtyMap::Run> under_way_;  // a helper's each
  bool ready_ = false;
  std::optional<Error> failure_;
  Nanoseconds slice_start_{0};
  uint64_t slice_bytes_ = 0;
};

}  // namespace rhea::block
