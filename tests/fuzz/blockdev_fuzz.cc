// Block nodes from options. Each line of the input is a command: "-NAME" deletes a node, "=OPTIONS"
// reopens one, "@FILENAME" opens what a file name stands for, and anything else is the options of a
// node to add. Then every node gets requests, and all go. Only drivers that touch nothing of the
// host are let through, and nothing that waits on purpose.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "block/filename.h"
#include "block/graph.h"
#include "util/bql.h"
#include "util/options.h"
#include "util/rcu.h"

namespace {

using namespace rhea;
using namespace rhea::block;

constexpr size_t kMostLines = 32;

/// What all inputs share: loops and threads are dear.
struct World {
  // Unchecked: the destructor gives the BQL back.
  World() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop = MUST(MainLoop::create());
    pool = std::make_unique<ThreadPool>(ThreadPool::Limits{});
    graph = std::make_unique<Graph>(*loop, *pool);
    MUST(graph->throttle_groups().add(gs(), "g", {}));
  }
  // Unchecked: the constructor took the BQL.
  ~World() NO_THREAD_SAFETY_ANALYSIS {
    graph.reset();
    pool.reset();
    loop.reset();
    bql.unlock();
  }
  Gs& gs() {
    bql.assert_held();
    return loop->gs();
  }

  RcuThread rcu_thread;
  std::unique_ptr<MainLoop> loop;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Graph> graph;
};

bool is_harmless(const OptionTree& tree) {
  constexpr std::array<std::string_view, 4> kDrivers{"null-co", "raw", "throttle", "blkdebug"};
  constexpr std::array<std::string_view, 3> kWaits{"latency-ns", "delay-ns", "suspend"};
  for (size_t i = 0; i < tree.keys().size(); ++i) {
    const std::string& key = tree.keys()[i];
    if (std::ranges::find(kWaits, key) != kWaits.end()) return false;
    if (key == "driver" && std::ranges::find(kDrivers, tree.values()[i].text()) == kDrivers.end()) {
      return false;
    }
  }
  return std::ranges::all_of(tree.values(), is_harmless);
}

void run_line(World& world, std::string_view line) {
  Gs& gs = world.gs();
  if (line.starts_with('-')) {
    (void)world.graph->del(gs, line.substr(1));
    return;
  }
  if (line.starts_with('@')) {
    auto tree = parse_filename(line.substr(1));
    if (tree && is_harmless(*tree)) (void)world.graph->open(gs, *std::move(tree));
    return;
  }
  const bool reopen = line.starts_with('=');
  auto tree = parse_options(reopen ? line.substr(1) : line);
  if (!tree || !is_harmless(*tree)) return;
  if (reopen) {
    (void)world.graph->reopen(gs, *std::move(tree));
  } else {
    (void)world.graph->add(gs, *std::move(tree));
  }
}

/// Errors are fine, whatever they say; anything else is not.
void exercise(World& world, Node& node) {
  std::array<std::byte, 1536> bytes{};
  const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
  const IoVector memory = IoVector::of(std::span(&piece, 1));
  const uint64_t length = node.length();
  const uint64_t at = length > 2000 ? (length - 1536) & ~uint64_t{511} : 0;
  MUST(world.graph->run_sync(world.gs(), world.loop->block(), [&](Co& co) -> Result<void> {
    GraphReadGuard reading(co);
    for (const uint64_t offset : {uint64_t{0}, uint64_t{77}, at, length}) {
      (void)node.co_read(co, offset, memory);
      (void)node.co_write(co, offset, memory, WriteFlags::kForceUnitAccess);
      (void)node.co_write_zeroes(co, offset, 1000, WriteFlags::kMayUnmap);
      (void)node.co_discard(co, offset, 5000);
      (void)node.co_status(co, offset, 512);
    }
    (void)node.co_flush(co);
    return ok();
  }));
  const auto resized = world.graph->resize(world.gs(), node, at);
  if (resized) RHEA_CHECK(node.length() <= at || !node.children(world.gs()).empty());
}

void delete_all(World& world) {
  world.graph->close_unused(world.gs());  // what a file name stood for
  for (bool progress = true; progress;) {
    progress = false;
    std::vector<std::string> names;
    for (const Node* node : world.graph->nodes(world.gs())) names.push_back(node->name());
    for (const std::string& name : names) {
      if (world.graph->del(world.gs(), name)) progress = true;
    }
  }
  RHEA_CHECK(world.graph->nodes(world.gs()).empty(), "node '{}' is left",
             world.graph->nodes(world.gs()).front()->name());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  const std::string input(data, data + size);  // chars, not bytes of another type
  std::string_view text = input;
  for (size_t lines = 0; !text.empty() && lines < kMostLines; ++lines) {
    const size_t end = text.find('\n');
    run_line(world, text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
  world.graph->close_unused(world.gs());
  const auto all = world.graph->nodes(world.gs());
  const std::vector<Node*> nodes(all.begin(), all.end());
  for (Node* node : nodes) exercise(world, *node);
  delete_all(world);
  return 0;
}
