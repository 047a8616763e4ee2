// A driver for tests that stands above others, for building graphs.
#pragma once

#include <functional>

#include "block/filter_driver.h"
#include "tests/unit/block/test_disk.h"

namespace rhea::block::test {

/// "test-filter": passes everything on to "file"; may have another child, "file2".
class TestFilter final : public FilterDriver {
 public:
  static constexpr std::string_view kName = "test-filter";
  static TestFilter& of(Node& node) { return dynamic_cast<TestFilter&>(node.driver()); }
  DrainCalls calls;                                  // main
  std::function<Result<void>(Co&)> instead_of_read;  // set before the first request
  inline static int late_calls = 0;                  // to any, after its close; main

  std::string_view name() const noexcept override { return kName; }
  Result<void> open(Gs& gs, OpenRequest& request) override {
    TRY(FilterDriver::open(gs, request));
    if (request.options().has("file2")) TRY(request.open_child("file2"));
    return ok();
  }
  BlockLimits limits(Gs&) const override { return {}; }
  void close(Gs&) noexcept override { closed_ = true; }
  void drained_begin() noexcept override {
    ++calls.begun;
    late_calls += closed_ ? 1 : 0;
  }
  void drained_end() noexcept override {
    ++calls.ended;
    late_calls += closed_ ? 1 : 0;
  }
  Result<void> co_read(Co& co, uint64_t offset, IoVector memory) override
      REQUIRES_SHARED(graph_lock) {
    if (instead_of_read) return instead_of_read(co);
    return below().co_read(co, offset, memory);
  }

 private:
  bool closed_ = false;
};

}  // namespace rhea::block::test
