// What the block graph's bookkeeping costs: a request's hold on the graph, and a change of it.
//
//   graph_bench
//
// Prints a line a figure: nanoseconds of one thread. A node's own work is null-co's, which is none.
#include <fmt/core.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "block/graph.h"
#include "util/bql.h"
#include "util/io_thread.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::block;

namespace {

template <class F>
void measure(const char* what, long rounds, F&& body) {
  const auto start = std::chrono::steady_clock::now();
  for (long i = 0; i < rounds; ++i) body();
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
  fmt::print("{:38}{:8.1f} ns\n", what, spent.count() / static_cast<double>(rounds));
}

void measure_reader(Graph& graph, Gs& gs, BlockBackend& backend) {
  constexpr long kRounds = 5'000'000;
  MUST(graph.run_sync(gs, graph.loop().block(), [&](Co& co) -> Result<void> {
    measure("graph read lock and unlock", kRounds, [&co] { const GraphReadGuard reading(co); });
    std::byte byte{};
    const iovec piece{.iov_base = &byte, .iov_len = 1};
    const IoVector memory = IoVector::of(std::span(&piece, 1));
    measure("read of null-co through a backend", kRounds,
            [&] { MUST(backend.co_read(co, 0, memory)); });
    return ok();
  }));
}

void measure_writer(Graph& graph, Gs& gs, const char* what) {
  constexpr long kRounds = 20'000;
  measure(what, kRounds, [&] { MUST(graph.change(gs, [](GraphWrite&) {})); });
}

}  // namespace

int main() {
  const RcuThread registered;
  bql.lock();
  auto loop = MUST(MainLoop::create());
  Gs& gs = loop->gs();
  ThreadPool pool{ThreadPool::Limits{}};
  {
    Graph graph(*loop, pool);
    Node& node = *MUST(graph.add(gs, MUST(parse_options("driver=null-co,node-name=n,size=1M"))));
    BlockBackend backend(graph, "bench", {.taken = Perm::kConsistentRead, .shared = Perm::kAll});
    MUST(backend.insert(gs, node));
    measure_reader(graph, gs, backend);
    measure_writer(graph, gs, "write section, idle, 1 event loop");
    std::vector<std::unique_ptr<IOThread>> threads;
    std::vector<std::unique_ptr<BlockContext>> contexts;
    for (int i = 0; i < 8; ++i) {
      threads.push_back(MUST(IOThread::create("io")));
      contexts.push_back(MUST(BlockContext::create(threads.back()->context())));
    }
    measure_writer(graph, gs, "write section, idle, 9 event loops");
    MUST(backend.remove(gs));
    contexts.clear();
  }
  loop.reset();
  bql.unlock();
}
