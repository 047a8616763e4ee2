// What a test is told of jobs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "block/job.h"

namespace rhea::block::test {

/// Thread: main.
struct JobEvents final : JobObserver {
  void job_status_changed(const Job& job) override {
    statuses.emplace_back(to_string(job.status()));
  }
  void job_ready(const Job&) override { ++ready; }
  void job_ended(const Job& job) override {
    ++ended;
    if (job.error()) error = job.error()->message();
  }
  std::vector<std::string> statuses;
  std::optional<std::string> error;
  int ready = 0, ended = 0;
};

}  // namespace rhea::block::test
