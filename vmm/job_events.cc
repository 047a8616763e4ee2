#include "vmm/job_events.h"

namespace rhea::vmm {

ReplyJson job_summary(const block::Job& job) {
  return {{"type", std::string(job.type())},
          {"device", job.id()},
          {"len", job.length()},
          {"offset", job.offset()},
          {"speed", job.speed()}};
}

void JobEvents::job_status_changed(const block::Job& job) {
  publish("JOB_STATUS_CHANGE",
          {{"id", job.id()}, {"status", std::string(to_string(job.status()))}});
}

void JobEvents::job_ready(const block::Job& job) { publish("BLOCK_JOB_READY", job_summary(job)); }

void JobEvents::job_ended(const block::Job& job) {
  if (job.cancelled()) return publish("BLOCK_JOB_CANCELLED", job_summary(job));
  ReplyJson data = job_summary(job);
  if (job.error()) data["error"] = job.error()->message();
  publish("BLOCK_JOB_COMPLETED", data);
}

}  // namespace rhea::vmm
