// Requests through a BlockBackend: how many a second, and what CPU time one costs.
//
//   block_bench OPTIONS [depth=64] [size=4096] [count=1000000] [op=read|write] [registered=off|on]
//
// OPTIONS are a node's, as for -blockdev without a node-name. Reads or writes `size` bytes one
// after the other, a coroutine each, with `depth` of them at a time on one event loop, and prints
//   iops=... cpu_ns=... (CPU time of the whole process for one request)
// With registered=on the buffers are registered memory, as a preallocated guest's RAM is.
#include <fmt/core.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "block/aligned_buffer.h"
#include "block/graph.h"
#include "util/bql.h"
#include "util/parse.h"
#include "util/rcu.h"
#include "util/registered_memory.h"

using namespace rhea;
using namespace rhea::block;

namespace {

struct Job {
  uint64_t depth = 64, size = 4096, count = 1'000'000;
  bool writes = false;
  bool registered = false;
};

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// Keeps `depth` requests under way until `count` have been made.
class Load {
 public:
  Load(BlockBackend& backend, AioContext& context, const Job& job)
      : backend_(backend),
        context_(context),
        job_(job),
        buffer_(std::make_shared<AlignedBuffer>(job.size * job.depth, 4096)),
        again_(context, [this] { pump(); }) {
    for (uint64_t i = 0; i < job.depth; ++i) free_.push_back(i);
    if (job.registered) registered_.emplace(buffer_->bytes(), buffer_);
  }

  void pump() {
    while (!free_.empty() && started_ < job_.count) {
      ++started_;
      MUST(start_here(context_, [this](Co& co) { request(co); }));
    }
  }
  bool done() const { return finished_ == job_.count; }
  const std::optional<Error>& error() const { return error_; }

 private:
  void request(Co& co) {
    const uint64_t slot = free_.back();
    free_.pop_back();
    const uint64_t places = backend_.length() / job_.size;
    const uint64_t offset = next_++ % places * job_.size;
    const iovec piece{.iov_base = buffer_->bytes().data() + slot * job_.size, .iov_len = job_.size};
    const IoVector memory = IoVector::of(std::span(&piece, 1));
    auto result =
        job_.writes ? backend_.co_write(co, offset, memory) : backend_.co_read(co, offset, memory);
    if (!result && !error_) error_ = result.error();
    free_.push_back(slot);
    ++finished_;
    if (started_ < job_.count) again_.schedule();
  }

  BlockBackend& backend_;
  AioContext& context_;
  const Job job_;
  const std::shared_ptr<AlignedBuffer> buffer_;
  std::optional<RegisteredMemory> registered_;
  std::vector<uint64_t> free_;
  uint64_t started_ = 0, finished_ = 0, next_ = 0;
  std::optional<Error> error_;
  Bh again_;
};

Result<void> run(Graph& graph, Gs& gs, OptionTree options, const Job& job) {
  NodeRef node = TRY(graph.open(gs, std::move(options)));
  const Perm taken = job.writes ? Perm::kConsistentRead | Perm::kWrite : Perm::kConsistentRead;
  BlockBackend backend(graph, "bench", {.taken = taken, .shared = Perm::kAll});
  TRY(backend.insert(gs, *node));
  AioContext& context = graph.loop().block();
  {
    Load load(backend, context, job);
    const double cpu = cpu_seconds();
    const auto start = std::chrono::steady_clock::now();
    load.pump();
    while (!load.done()) context.poll(PollMode::kBlocking);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const double requests = static_cast<double>(job.count);
    fmt::print("iops={:.0f} cpu_ns={:.1f}\n", requests / took.count(),
               (cpu_seconds() - cpu) / requests * 1e9);
    if (load.error()) return *load.error();
  }
  TRY(backend.remove(gs));
  return ok();
}

Result<Job> parse(int argc, char** argv) {
  Job job;
  for (int i = 2; i < argc; ++i) {
    const std::string_view word = argv[i];
    const size_t equals = std::min(word.find('='), word.size());
    const std::string_view key = word.substr(0, equals);
    const std::string value(word.substr(std::min(equals + 1, word.size())));
    if (key == "op" || key == "registered") {
      (key == "op" ? job.writes : job.registered) = value == "write" || value == "on";
      continue;
    }
    uint64_t* number = key == "depth"   ? &job.depth
                       : key == "size"  ? &job.size
                       : key == "count" ? &job.count
                                        : nullptr;
    if (number == nullptr) return fail(ErrorKind::kInvalidArgument, "no such word: {}", word);
    *number = std::strtoull(value.c_str(), nullptr, 10);
    if (*number == 0) return fail(ErrorKind::kInvalidArgument, "not a number: {}", word);
  }
  return job;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr,
               "usage: block_bench OPTIONS [depth=] [size=] [count=] [op=read|write] "
               "[registered=off|on]\n");
    return 2;
  }
  const RcuThread registered;
  bql.lock();
  auto loop = MUST(MainLoop::create());
  ThreadPool pool{ThreadPool::Limits{}};
  Result<void> result = ok();
  {
    Graph graph(*loop, pool);
    auto job = parse(argc, argv);
    auto options = parse_options(argv[1]);
    result = !job       ? Result<void>(job.error())
             : !options ? Result<void>(options.error())
                        : run(graph, loop->gs(), *std::move(options), *job);
  }
  loop.reset();
  bql.unlock();
  if (!result) fmt::print(stderr, "block_bench: {}\n", result.error().message());
  return result ? 0 : 1;
}
