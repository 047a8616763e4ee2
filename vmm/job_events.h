// JobEvents: tells monitors what becomes of block jobs.
#pragma once

#include <functional>
#include <string_view>
#include <utility>

#include "block/job.h"
#include "vmm/qmp/json_text.h"

namespace rhea::vmm {

/// {"type", "device", "len", "offset", "speed"}: what every event about a block job says.
ReplyJson job_summary(const block::Job& job);

/// JOB_STATUS_CHANGE, BLOCK_JOB_READY, BLOCK_JOB_COMPLETED and BLOCK_JOB_CANCELLED.
/// Thread: main, service context.
class JobEvents final : public block::JobObserver {
 public:
  using Publisher = std::function<void(std::string_view event, const ReplyJson& data)>;
  /// Null: nobody listens (any more).
  void set_publisher(Publisher publisher) { publisher_ = std::move(publisher); }

  void job_status_changed(const block::Job& job) override;
  void job_ready(const block::Job& job) override;
  void job_ended(const block::Job& job) override;

 private:
  void publish(std::string_view event, const ReplyJson& data) const {
    if (publisher_) publisher_(event, data);
  }
  Publisher publisher_;
};

}  // namespace rhea::vmm
