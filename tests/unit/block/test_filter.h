// A driver for tests that stands above others, for building graphs.
#pragma once

#include <functional>

#include "tests/unit/block/test_disk.h"

namespace rhea::block::test {

/// "test-filter": passes everything on to "file"; may have another child, "file2".
class TestFilter final : public BlockDriver {
 public:
  static constexpr std::string_view kName = "test-filter";
  static TestFilter& of(Node& node) { return dynamic_cast<TestFilter&>(node.driver()); }
  DrainCalls calls;                                  // main
  std::function<Result<void>(Co&)> instead_of_read;  // set before the first request
  inline static int late_calls = 0;                  // to any, after its close; main

  std::string_view name() const noexcept override { return kName; }
  bool is_filter() const noexcept override { return true; }
  Result<void> open(Gs&, OpenRequest& request) override {
    file_ = TRY(request.open_child("file"));
    if (request.options().has("file2")) TRY(request.open_child("file2"));
    return ok();
  }
  Result<uint64_t> measure(Gs& gs) override {
    return file_->node(gs) != nullptr ? file_->node(gs)->length() : 0;
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
    return file_->node()->co_read(co, offset, memory);
  }
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock) {
    return file_->node()->co_write(co, offset, memory, flags);
  }
  Result<void> co_flush(Co& co) override REQUIRES_SHARED(graph_lock) {
    return file_->node()->co_flush(co);
  }

 private:
  Edge* file_ = nullptr;
  bool closed_ = false;
};

}  // namespace rhea::block::test
