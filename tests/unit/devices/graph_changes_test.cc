// Two disks on four iothreads read and write without a pause while main changes the graph below
// them: filters and limits come and go, images are mirrored and replaced, grown, drained, and the
// queues change their threads. Every byte is checked when it is read, and all of them at the end.
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <thread>

#include "block/mirror.h"
#include "devices/virtio/virtio_blk.h"
#include "tests/support/size.h"
#include "tests/support/temp_dir.h"
#include "tests/support/virtio_guest.h"
#include "tests/support/watchdog.h"
#include "util/io_thread.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::devices;
using test::GuestBuffer;
using test::GuestQueue;

namespace {

constexpr unsigned kDisks = 2, kQueues = 4, kSlots = 4;
constexpr uint64_t kSlotBytes = 256 * 1024;
constexpr uint64_t kImageBytes = kQueues * kSlots * kSlotBytes;
constexpr uint64_t kMostBytes = 16 * 1024;
constexpr uint16_t kRingSize = 64;

/// Where a disk's things lie in guest RAM.
constexpr uint64_t disk_base(unsigned disk) { return 0x10'0000 + disk * 0x80'0000ULL; }
constexpr uint64_t ring_at(unsigned disk, unsigned queue) {
  return disk_base(disk) + queue * 0x4000ULL;
}
constexpr uint64_t slot_at(unsigned disk, unsigned queue, unsigned slot) {
  return disk_base(disk) + 0x10'0000 + (queue * kSlots + slot) * 0x1'0000ULL;
}

struct Sink final : IoErrorSink {
  void io_error(const IoError&) override REQUIRES(bql) { ++errors; }
  std::atomic<int> errors{0};
};

/// One request at a time in a part of the disk of its own, and what that part must hold.
struct Slot {
  uint64_t disk_offset = 0, memory = 0;
  std::vector<std::byte> holds = std::vector<std::byte>(kSlotBytes);
  uint64_t offset = 0, size = 0;
  bool writes = false;
};

/// The guest's side of one disk, on a thread of its own.
class Guest {
 public:
  Guest(std::byte* ram, unsigned disk, std::vector<GuestQueue> queues)
      : ram_(ram), queues_(std::move(queues)), random_(disk + 1) {
    for (unsigned q = 0; q < kQueues; ++q) {
      for (unsigned s = 0; s < kSlots; ++s) {
        Slot& slot = slots_[q][s];
        slot.disk_offset = (q * kSlots + s) * kSlotBytes;
        slot.memory = slot_at(disk, q, s);
      }
    }
  }
  void start() {
    thread_ = std::thread([this] { run(); });
  }
  /// Lets what is under way end.
  void finish() {
    stop_ = true;
    thread_.join();
  }
  uint64_t requests() const { return requests_; }
  uint64_t wrong() const { return wrong_; }
  const Slot& slot(unsigned q, unsigned s) const { return slots_[q][s]; }

 private:
  void run() {
    for (unsigned q = 0; q < kQueues; ++q) {
      for (unsigned s = 0; s < kSlots; ++s) offer(q, s);
    }
    while (under_way_ != 0) {
      bool any = false;
      for (unsigned q = 0; q < kQueues; ++q) {
        while (const auto done = queues_[q].take()) {
          any = true;
          complete(q, by_head_[q][done->first]);
        }
      }
      if (!any) std::this_thread::yield();
    }
  }
  void offer(unsigned q, unsigned s) {
    Slot& slot = slots_[q][s];
    slot.writes = random_() % 2 == 0;
    slot.size = 512 * (1 + random_() % (kMostBytes / 512));
    slot.offset = 512 * (random_() % ((kSlotBytes - slot.size) / 512 + 1));
    std::byte* data = ram_ + slot.memory + 0x1000;
    if (slot.writes) {
      const uint64_t seed = random_();
      for (uint64_t i = 0; i < slot.size; ++i) data[i] = static_cast<std::byte>(seed + i * 7);
      std::copy_n(data, slot.size, slot.holds.begin() + static_cast<std::ptrdiff_t>(slot.offset));
    }
    struct {
      uint32_t type, reserved;
      uint64_t sector;
    } header{slot.writes ? 1U : 0U, 0, (slot.disk_offset + slot.offset) / 512};
    std::memcpy(ram_ + slot.memory, &header, sizeof header);
    const std::array chain{
        GuestBuffer{slot.memory, 16, false},
        GuestBuffer{slot.memory + 0x1000, static_cast<uint32_t>(slot.size), !slot.writes},
        GuestBuffer{slot.memory + 0x800, 1, true}};
    ram_[slot.memory + 0x800] = std::byte{0xff};
    by_head_[q][queues_[q].offer(chain)] = s;
    queues_[q].ring();
    ++under_way_;
  }
  void complete(unsigned q, unsigned s) {
    --under_way_;
    ++requests_;
    const Slot& slot = slots_[q][s];
    const std::byte* data = ram_ + slot.memory + 0x1000;
    const bool fine =
        ram_[slot.memory + 0x800] == std::byte{0} &&
        (slot.writes || std::equal(data, data + slot.size,
                                   slot.holds.begin() + static_cast<std::ptrdiff_t>(slot.offset)));
    if (!fine) ++wrong_;
    if (!stop_) offer(q, s);
  }

  std::byte* ram_;
  std::vector<GuestQueue> queues_;
  std::mt19937_64 random_;
  std::array<std::array<Slot, kSlots>, kQueues> slots_;
  std::array<std::array<unsigned, kRingSize>, kQueues> by_head_{};
  unsigned under_way_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> requests_{0}, wrong_{0};
  std::thread thread_;
};

struct Events final : block::JobObserver {
  void job_status_changed(const block::Job&) override {}
  void job_ready(const block::Job&) override { ++ready; }
  void job_ended(const block::Job& job) override {
    ++ended;
    if (job.error()) error = job.error()->message();
  }
  int ready = 0, ended = 0;
  std::string error;
};

/// Main's side: the machine, the disks, and what an operator does to them.
class Operator {
 public:
  // Unchecked: the destructor gives the BQL back.
  Operator() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    pool_ = std::make_unique<ThreadPool>(ThreadPool::Limits{});
    graph_ = std::make_unique<block::Graph>(*loop_, *pool_);
    machine_ = std::make_unique<test::VirtioMachine>();
    for (unsigned i = 0; i < kQueues; ++i) {
      threads_.push_back(MUST(IOThread::create("io")));
      contexts_.push_back(MUST(block::BlockContext::create(threads_.back()->context())));
    }
    for (unsigned i = 0; i < kDisks; ++i) add_disk(i);
  }
  // Unchecked: the constructor took the BQL.
  ~Operator() NO_THREAD_SAFETY_ANALYSIS {
    jobs_.cancel_all(gs(), *graph_);
    for (const auto& pci : devices_) {
      machine_->bus().remove(*pci);
      pci->unrealize();
    }
    devices_.clear();
    machine_.reset();
    graph_.reset();
    contexts_.clear();
    threads_.clear();
    pool_.reset();
    loop_.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }

  void start() {
    for (auto& guest : guests_) guest->start();
  }
  void stop() {
    for (auto& guest : guests_) guest->finish();
  }
  Guest& guest(unsigned disk) { return *guests_[disk]; }
  int errors() const { return sink_.errors; }
  std::string node(unsigned disk) const { return nodes_[disk]; }
  Gs& gs() {
    bql.assert_held();
    return loop_->gs();
  }
  block::Graph& graph() { return *graph_; }

  /// A filter goes in above the file, and out again.
  void filter(unsigned disk) {
    const std::string name = fmt::format("t{}", next_++);
    const std::string file = files_[disk];
    MUST(graph_->add(gs(), tree(fmt::format("driver=blkdebug,node-name={},image={}", name, file))));
    reopen(disk, name);
    reopen(disk, file);
    MUST(graph_->del(gs(), name));
  }
  /// Requests wait for their turn for a while, then no more: those that wait are let go.
  void limit(unsigned disk) {
    if (graph_->throttle_groups().find(gs(), "g") == nullptr) {
      block::ThrottleLimits limits;
      limits.limits[block::ThrottleLimits::kIopsTotal].average = 10'000;
      MUST(graph_->throttle_groups().add(gs(), "g", limits));
    }
    block::BlockBackend& backend = disks_[disk]->backend();
    const block::NodeRef limiter = MUST(graph_->open(
        gs(), tree(fmt::format("driver=throttle,throttle-group=g,file={}", nodes_[disk]))));
    MUST(backend.replace(gs(), *limiter));
    drain();
    MUST(backend.replace(gs(), *graph_->find(gs(), nodes_[disk])));
  }
  /// The disk goes on with a copy of its image; the old one goes.
  void mirror(unsigned disk) {
    const std::string old_node = nodes_[disk], old_file = files_[disk], old_path = paths_[disk];
    add_nodes(disk, graph_->find(gs(), old_node)->length());
    block::MirrorConfig config;
    config.id = fmt::format("m{}", next_++);
    const int ended = events_.ended, ready = events_.ready;
    MUST(jobs_.add(MUST(block::Mirror::create(gs(), *graph_, *graph_->find(gs(), old_node),
                                              *graph_->find(gs(), nodes_[disk]), config))));
    turn_until([&] { return events_.ready > ready || events_.ended > ended; });
    if (block::Job* job = jobs_.find(config.id)) MUST(job->complete());
    turn_until([&] { return events_.ended > ended; });
    INFO(events_.error);
    REQUIRE(events_.error.empty());
    MUST(graph_->del(gs(), old_node));
    MUST(graph_->del(gs(), old_file));
    std::filesystem::remove(old_path);  // or ten minutes of this fill the host's disk
  }
  /// Every queue goes on on the thread of its neighbour.
  void move(unsigned disk) NO_THREAD_SAFETY_ANALYSIS {
    std::vector<AioContext*> contexts;
    for (unsigned q = 0; q < kQueues; ++q) {
      contexts.push_back(&threads_[(q + next_) % kQueues]->context());
    }
    ++next_;
    MUST(disks_[disk]->hold());
    disks_[disk]->move_queues(contexts);
    disks_[disk]->release();
  }
  void grow(unsigned disk) {
    block::Node& node = *graph_->find(gs(), nodes_[disk]);
    MUST(graph_->resize(gs(), node, node.length() + 65536));
  }
  void drain() {
    MUST(graph_->with_all_drained(gs(), [](block::DrainBypass&) -> Result<void> { return ok(); }));
  }
  std::vector<std::byte> read(unsigned disk, uint64_t offset, uint64_t size) {
    std::vector<std::byte> bytes(size);
    const iovec piece{.iov_base = bytes.data(), .iov_len = size};
    block::Node& node = *graph_->find(gs(), nodes_[disk]);
    MUST(graph_->run_sync(gs(), loop_->block(), [&](Co& co) -> Result<void> {
      block::GraphReadGuard reading(co);
      return node.co_read(co, offset, block::IoVector::of(std::span(&piece, 1)));
    }));
    return bytes;
  }

 private:
  static OptionTree tree(std::string_view text) { return MUST(parse_options(text)); }

  template <class F>
  void turn_until(F&& done) {
    bql.assert_held();
    while (!done()) loop_->turn();
  }
  /// A raw node over a file node over a new file.
  void add_nodes(unsigned disk, uint64_t bytes) {
    const unsigned number = next_++;
    const std::string path = folder_.file(fmt::format("image{}", number));
    paths_[disk] = path;
    std::ofstream(path).close();
    std::filesystem::resize_file(path, bytes);
    files_[disk] = fmt::format("f{}", number);
    nodes_[disk] = fmt::format("d{}", number);
    // Threads complete in any order, a ring mostly in the order of asking.
    const char* aio = disk % 2 == 0 ? "" : ",aio=threads";
    MUST(graph_->add(gs(), tree(fmt::format("driver=file,node-name={},filename={}{}", files_[disk],
                                            path, aio))));
    MUST(graph_->add(
        gs(), tree(fmt::format("driver=raw,node-name={},file={}", nodes_[disk], files_[disk]))));
  }
  void add_disk(unsigned disk) REQUIRES(bql) {
    add_nodes(disk, kImageBytes);
    VirtioBlkConfig config;
    for (const auto& thread : threads_) config.queues.push_back(&thread->context());
    config.node = nodes_[disk];
    auto blk = std::make_unique<VirtioBlk>(fmt::format("vd{}", disk),
                                           VirtioDevice::Host{*loop_, machine_->dma()}, *graph_,
                                           std::move(config), sink_);
    VirtioBlk& device = *blk;
    disks_[disk] = &device;
    auto pci = std::make_shared<VirtioPci>(fmt::format("vd{}", disk), std::move(blk),
                                           machine_->msi(), *loop_);
    MUST(pci->realize());
    MUST(machine_->bus().add(pci, 3 + disk));
    devices_.push_back(pci);
    test::VirtioDriver driver(*machine_, 3 + disk);
    driver.negotiate(~uint64_t{0});
    std::vector<GuestQueue> queues;
    for (unsigned q = 0; q < kQueues; ++q) {
      queues.push_back(driver.set_up_queue(static_cast<uint16_t>(q), ring_at(disk, q), kRingSize,
                                           device.kick_fd(q)));
    }
    driver.go();
    guests_.push_back(std::make_unique<Guest>(machine_->ram(), disk, std::move(queues)));
  }
  void reopen(unsigned disk, const std::string& file) {
    MUST(graph_->reopen(gs(),
                        tree(fmt::format("driver=raw,node-name={},file={}", nodes_[disk], file))));
  }

  RcuThread rcu_thread_;
  test::TempDir folder_;
  Sink sink_;
  Events events_;
  block::Jobs jobs_{events_};
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<block::Graph> graph_;
  std::unique_ptr<test::VirtioMachine> machine_;
  std::vector<std::unique_ptr<IOThread>> threads_;
  std::vector<std::unique_ptr<block::BlockContext>> contexts_;
  std::vector<std::shared_ptr<VirtioPci>> devices_;
  std::array<VirtioBlk*, kDisks> disks_{};
  std::vector<std::unique_ptr<Guest>> guests_;
  std::array<std::string, kDisks> nodes_, files_, paths_;
  unsigned next_ = 0;
};

}  // namespace

TEST_CASE("VirtioBlk: no byte is lost while main changes the graph below the disks",
          "[virtio-blk][graph-changes]") {
  const auto span = test::sized(std::chrono::seconds(20), std::chrono::seconds(600));
  test::Watchdog watchdog("graph changes while the disks work", span * 4 + std::chrono::minutes(2));
  Operator op;
  op.start();
  const auto end = std::chrono::steady_clock::now() + span;
  unsigned rounds = 0;
  while (std::chrono::steady_clock::now() < end) {
    const unsigned disk = rounds % kDisks;
    op.filter(disk);
    op.limit(disk);
    op.mirror(disk);
    if (rounds < 64) op.grow(disk);
    op.move(disk);
    op.drain();
    ++rounds;
  }
  op.stop();
  CHECK(op.errors() == 0);
  for (unsigned disk = 0; disk < kDisks; ++disk) {
    INFO("disk " << disk << ", " << op.guest(disk).requests() << " requests, " << rounds
                 << " rounds");
    CHECK(op.guest(disk).wrong() == 0);
    CHECK(op.guest(disk).requests() > rounds);
    for (unsigned q = 0; q < kQueues; ++q) {
      for (unsigned s = 0; s < kSlots; ++s) {
        const auto& slot = op.guest(disk).slot(q, s);
        CHECK(op.read(disk, slot.disk_offset, kSlotBytes) == slot.holds);
      }
    }
  }
  WARN(rounds << " rounds, " << op.guest(0).requests() + op.guest(1).requests() << " requests");
}
