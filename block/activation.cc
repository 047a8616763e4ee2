// Graph: whose the images are, this process's or another's.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/graph.h"

namespace rhea::block {
namespace {

/// A drain's end wakes the requests that it held back, and the next one may come before they run:
/// they would find the images another's, though they were asked for while these were ours. Whoever
/// was woken before runs before this ends, as coroutines are resumed in the order of their waking.
Result<void> let_woken_run(Gs& gs, MainLoop& loop, Nanoseconds deadline) {
  const auto missing = std::make_shared<std::atomic<size_t>>(0);  // outlives the deadline
  for (BlockContext* context : graph_lock.contexts()) {
    missing->fetch_add(1);
    auto started = spawn(context->aio(), [missing, &waiter = loop.waiter()](Co&) {
      missing->fetch_sub(1);
      waiter.kick();
    });
    if (!started) return started;
  }
  if (loop.waiter().until(gs, [&] { return *missing == 0; }, deadline)) return ok();
  return fail(ErrorKind::kTimeout, "An event loop of block requests did not turn within {} s",
              std::chrono::duration_cast<std::chrono::seconds>(deadline).count());
}

}  // namespace

/// A job goes on after a drain, and what it had still to write would be lost.
Result<void> Graph::check_no_job_writes(Gs& gs) const {
  for (const BlockBackend* backend : backends_) {
    const Node* node = backend->node(gs);
    if (node == nullptr || !backend->writes_as_job()) continue;
    return fail(ErrorKind::kBusy, "Node '{}' is in use: job '{}' writes to it", node->name(),
                backend->name());
  }
  return ok();
}

/// What users have written, from the top of each tree, all at once. A flush that does not end in
/// time goes on by itself: it counts as its node's request, and later drains wait for it.
Result<void> Graph::flush_all(Gs& gs, Nanoseconds deadline) {
  struct Flushes {  // main's own: they run on its block context
    std::vector<const Node*> left;
    Result<void> result = ok();
  };
  const auto flushes = std::make_shared<Flushes>();
  const auto is_node = [](const Edge* edge) { return edge->parent().as_node() != nullptr; };
  for (Node* node : all_) {
    if (node->read_only() || std::ranges::any_of(node->parents_, is_node)) continue;
    node->begin_request(main_context());
    auto started = spawn(loop_.block(), [this, flushes, held = NodeRef(*node)](Co& co) {
      Result<void> flushed = ok();
      {
        GraphReadGuard reading(co);
        flushed = held->co_flush(co);
      }
      if (!flushed && flushes->result) flushes->result = std::move(flushed);
      std::erase(flushes->left, held.get());
      held->end_request(main_context());  // kicks
    });
    if (!started) {
      node->end_request(main_context());
      return started;
    }
    flushes->left.push_back(node);  // before it runs: main polls below
  }
  const auto all_done = [&] { return flushes->left.empty(); };
  if (loop_.waiter().until(gs, all_done, deadline)) return std::move(flushes->result);
  return fail(ErrorKind::kTimeout, "The flush of node '{}' did not end within {} s",
              flushes->left[0]->name(),
              std::chrono::duration_cast<std::chrono::seconds>(deadline).count());
}

Result<void> Graph::inactivate_all(Gs& gs, Nanoseconds deadline) {
  if (!active_) return ok();
  TRY(check_no_job_writes(gs));
  TRY(let_woken_run(gs, loop_, deadline));
  const auto leave_images = [&](GraphWrite&) {
    active_ = false;
    for (Node* node : all_) node->driver_->inactivate(gs);
  };
  return with_all_drained(
      gs,
      [&](DrainBypass&) -> Result<void> {
        TRY(flush_all(gs, deadline));  // and nothing is written between that and the section
        return change(gs, leave_images, deadline);
      },
      deadline);
}

/// Asks every node, also after one has failed: who is to free the images wants to hear of all.
Result<void> Graph::prepare_to_activate(Gs& gs, std::vector<Node*>& prepared) {
  std::optional<Error> refused;
  std::string reasons;
  for (Node* node : all_) {
    auto ready = node->driver_->prepare_to_activate(gs, node->needs_);
    if (ready) {
      prepared.push_back(node);
      const auto length = node->driver_->measure(gs);
      if (!length) ready = length.error();
    }
    if (ready) continue;
    reasons += (reasons.empty() ? "" : "; ") + ready.error().message();
    if (!refused) refused = ready.error();
  }
  if (!refused) return ok();
  return Error(refused->kind(), std::move(reasons), refused->os_errno());
}

Result<void> Graph::activate_all(Gs& gs, Nanoseconds deadline) {
  if (active_) return ok();
  std::vector<Node*> prepared;
  Result<void> done = prepare_to_activate(gs, prepared);
  if (done) {
    done = change(
        gs,
        [&](GraphWrite&) {
          active_ = true;
          for (Node* node : all_) node->driver_->commit_permissions(gs, node->needs_);
          // From the bottom: who is above hears what is new.
          for (Node* node : all_) {
            if (node->children_.empty() && node->measure(gs)) tell_parents(gs, *node);
          }
        },
        deadline);
  }
  if (!done) {
    for (Node* node : prepared) node->driver_->abort_permissions(gs);
  }
  return done;
}

}  // namespace rhea::block
