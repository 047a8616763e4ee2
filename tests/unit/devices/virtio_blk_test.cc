#include "devices/virtio/virtio_blk.h"

#include <catch2/catch.hpp>

#include "block/graph.h"
#include "tests/support/virtio_guest.h"
#include "util/io_thread.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::devices;
using test::GuestBuffer;
using test::GuestQueue;
using test::VirtioDriver;
using test::VirtioMachine;

namespace {

struct Errors final : IoErrorSink {
  void io_error(const IoError& error) override REQUIRES(bql) { seen.push_back(error); }
  std::vector<IoError> seen;
};

/// A machine with one disk in slot 3 on a null-co node, its queues on iothreads.
class Disk {
 public:
  explicit Disk(unsigned queues = 1,
                std::string_view node = "driver=null-co,read-zeroes=on,size=1M",
                VirtioBlkConfig config = {}) NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    pool_ = std::make_unique<ThreadPool>(ThreadPool::Limits{});
    graph_ = std::make_unique<block::Graph>(*loop_, *pool_);
    MUST(graph_->add(loop_->gs(), MUST(parse_options(std::string(node) + ",node-name=d0"))));
    machine_ = std::make_unique<VirtioMachine>();
    for (unsigned i = 0; i < queues; ++i) {
      threads_.push_back(MUST(IOThread::create("io")));
      contexts_.push_back(MUST(block::BlockContext::create(threads_.back()->context())));
      config.queues.push_back(&threads_.back()->context());
    }
    config.node = "d0";
    auto disk = std::make_unique<VirtioBlk>("vd0", VirtioDevice::Host{*loop_, machine_->dma()},
                                            *graph_, std::move(config), errors);
    blk = disk.get();
    pci = std::make_shared<VirtioPci>("vd0", std::move(disk), machine_->msi(), *loop_);
    MUST(pci->realize());
    MUST(machine_->bus().add(pci, 3));
    driver_.emplace(*machine_, 3U);
  }
  ~Disk() NO_THREAD_SAFETY_ANALYSIS {
    machine_->bus().remove(*pci);
    pci->unrealize();
    pci.reset();
    machine_.reset();
    graph_.reset();
    contexts_.clear();
    threads_.clear();
    pool_.reset();
    loop_.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }

  VirtioDriver& driver() { return *driver_; }
  VirtioMachine& machine() { return *machine_; }
  MainLoop& loop() { return *loop_; }
  block::Graph& graph() { return *graph_; }
  Gs& gs() NO_THREAD_SAFETY_ANALYSIS { return loop_->gs(); }

  GuestQueue start(uint64_t features = ~uint64_t{0}, uint16_t size = 16) {
    driver().negotiate(features);
    GuestQueue queue = driver().set_up_queue(0, 0x10000, size, blk->kick_fd(0));
    driver().go();
    return queue;
  }
  template <class F>
  void wait_until(F&& done) {
    REQUIRE(loop_->waiter().until(
        gs(),
        [&] {
          const bool now = done();
          if (!now) loop_->block().notify();  // nobody kicks for a used ring
          return now;
        },
        std::chrono::seconds(20)));
  }
  /// Does one request and waits for it; its status and the bytes written.
  std::pair<uint8_t, uint32_t> request(GuestQueue& queue, uint32_t type, uint64_t sector,
                                       std::vector<GuestBuffer> data) {
    struct {
      uint32_t type, reserved;
      uint64_t sector;
    } header{type, 0, sector};
    std::memcpy(machine_->ram() + 0x1000, &header, sizeof header);
    machine_->ram()[0x2000] = std::byte{0xff};
    std::vector<GuestBuffer> chain{{0x1000, 16, false}};
    chain.insert(chain.end(), data.begin(), data.end());
    chain.push_back({0x2000, 1, true});
    queue.offer(chain);
    queue.ring();
    std::optional<std::pair<uint16_t, uint32_t>> done;
    wait_until([&] { return (done = queue.take()).has_value(); });
    return {std::to_integer<uint8_t>(machine_->ram()[0x2000]), done->second};
  }

  Errors errors;
  VirtioBlk* blk = nullptr;
  std::shared_ptr<VirtioPci> pci;

 private:
  RcuThread rcu_thread_;
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<block::Graph> graph_;
  std::unique_ptr<VirtioMachine> machine_;
  std::vector<std::unique_ptr<IOThread>> threads_;
  std::vector<std::unique_ptr<block::BlockContext>> contexts_;
  std::optional<VirtioDriver> driver_;
};

}  // namespace

TEST_CASE("VirtioBlk: a driver reads, writes, flushes and asks for the serial number",
          "[virtio-blk]") {
  VirtioBlkConfig config;
  config.serial = "rhea-1";
  Disk disk(1, "driver=null-co,read-zeroes=on,size=1M", config);
  GuestQueue queue = disk.start();
  std::memset(disk.machine().ram() + 0x8000, 0x55, 4096);
  CHECK(disk.request(queue, 0, 8, {{0x8000, 4096, true}}) == std::pair<uint8_t, uint32_t>(0, 4097));
  CHECK(disk.machine().ram()[0x8000] == std::byte{0});
  CHECK(disk.machine().ram()[0x8fff] == std::byte{0});
  CHECK(disk.request(queue, 1, 8, {{0x8000, 4096, false}}) == std::pair<uint8_t, uint32_t>(0, 1));
  CHECK(disk.request(queue, 4, 0, {}) == std::pair<uint8_t, uint32_t>(0, 1));
  CHECK(disk.request(queue, 8, 0, {{0x8000, 20, true}}) == std::pair<uint8_t, uint32_t>(0, 21));
  CHECK(std::memcmp(disk.machine().ram() + 0x8000, "rhea-1\0", 7) == 0);
  CHECK(disk.request(queue, 99, 0, {{0x8000, 512, true}}).first == 2);
  CHECK(disk.request(queue, 0, 2047, {{0x8000, 1024, true}}).first == 1);
}

TEST_CASE("VirtioBlk: a request without a status breaks the queue until the driver resets",
          "[virtio-blk]") {
  Disk disk;
  GuestQueue queue = disk.start();
  queue.offer(std::vector<GuestBuffer>{{0x1000, 16, false}});
  queue.ring();
  // The service context tells the driver, so the loop has to turn.
  while ((disk.driver().status() & 64) == 0) {
    bql.assert_held();
    disk.loop().turn();
  }
  disk.driver().write(VirtioDriver::Reg::kStatus, 0, 1);
  while (disk.driver().status() != 0) {
    bql.assert_held();
    disk.loop().turn();
  }
  GuestQueue again = disk.start();
  CHECK(disk.request(again, 4, 0, {}).first == 0);
}

TEST_CASE("VirtioBlk: many requests at once complete, on queues of several contexts",
          "[virtio-blk]") {
  Disk disk(2);
  disk.driver().negotiate(~uint64_t{0});
  GuestQueue queues[] = {disk.driver().set_up_queue(0, 0x10000, 256, disk.blk->kick_fd(0)),
                         disk.driver().set_up_queue(1, 0x20000, 256, disk.blk->kick_fd(1))};
  disk.driver().go();
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header{0, 0, 0};
  std::memcpy(disk.machine().ram() + 0x1000, &header, sizeof header);
  // Memory of its own for each queue: they are served by two threads.
  const std::vector<GuestBuffer> chains[] = {
      {{0x1000, 16, false}, {0x8000, 512, true}, {0x2000, 1, true}},
      {{0x1000, 16, false}, {0x9000, 512, true}, {0x3000, 1, true}}};
  int left[] = {3000, 3000}, done = 0;
  disk.wait_until([&] {
    for (int i = 0; i < 2; ++i) {
      GuestQueue& queue = queues[i];
      while (queue.take()) ++done;
      bool offered = false;
      while (left[i] > 0 && queue.free_descriptors() >= chains[i].size()) {
        queue.offer(chains[i]);
        --left[i];
        offered = true;
      }
      if (offered) queue.ring();
    }
    return done == 6000;
  });
  CHECK(disk.blk->backend().stats().kinds[0].operations == 6000);
}

TEST_CASE("VirtioBlk: a drain stops the queues, and what was offered meanwhile runs after it",
          "[virtio-blk][drain]") {
  Disk disk;
  GuestQueue queue = disk.start();
  block::Node& node = *disk.graph().find(disk.gs(), "d0");
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header{0, 0, 0};
  std::memcpy(disk.machine().ram() + 0x1000, &header, sizeof header);
  REQUIRE(disk.graph()
              .with_drained(disk.gs(), node,
                            [&](block::DrainBypass&) -> Result<void> {
                              queue.offer(std::vector<GuestBuffer>{
                                  {0x1000, 16, false}, {0x8000, 512, true}, {0x2000, 1, true}});
                              queue.ring();
                              // Round the context once: it would have taken the request by then.
                              TRY(disk.graph().run_sync(disk.gs(), disk.blk->queue(0).context(),
                                                        [](Co&) -> Result<void> { return ok(); }));
                              CHECK_FALSE(queue.take().has_value());
                              return ok();
                            })
              .has_value());
  disk.wait_until([&] { return queue.take().has_value(); });
}
