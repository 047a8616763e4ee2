// A disk on a null-co node in a machine without a guest, its queues on iothreads.
#pragma once

#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "block/graph.h"
#include "devices/virtio/virtio_blk.h"
#include "tests/support/virtio_guest.h"
#include "util/io_thread.h"
#include "util/rcu.h"

namespace rhea::test {

using devices::IoError;
using devices::IoErrorSink;
using devices::VirtioBlk;
using devices::VirtioBlkConfig;
using devices::VirtioDevice;
using devices::VirtioPci;

struct DiskErrors final : IoErrorSink {
  void io_error(const IoError& error) override REQUIRES(bql) { seen.push_back(error); }
  std::vector<IoError> seen;
};

/// A machine with one disk in slot 3 on a null-co node, each queue on an iothread of its own, or
/// all on the main loop.
class VirtioDisk {
 public:
  enum class QueuesOn : uint8_t { kIothreads, kMain };

  // Unchecked: the destructor gives the BQL back.
  explicit VirtioDisk(unsigned queues = 1,
                      std::string_view node = "driver=null-co,read-zeroes=on,size=1M",
                      VirtioBlkConfig config = {},
                      QueuesOn where = QueuesOn::kIothreads) NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    pool_ = std::make_unique<ThreadPool>(ThreadPool::Limits{});
    graph_ = std::make_unique<block::Graph>(*loop_, *pool_);
    MUST(graph_->add(loop_->gs(), MUST(parse_options(std::string(node) + ",node-name=d0"))));
    machine_ = std::make_unique<VirtioMachine>();
    for (unsigned i = 0; i < queues; ++i) {
      if (where == QueuesOn::kMain) {
        config.queues.push_back(&loop_->block());
        continue;
      }
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
  // Unchecked: the constructor took the BQL.
  ~VirtioDisk() NO_THREAD_SAFETY_ANALYSIS {
    if (pci) unplug();
    machine_.reset();
    graph_.reset();
    contexts_.clear();
    threads_.clear();
    pool_.reset();
    loop_.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }

  void unplug() {
    bql.assert_held();
    machine_->bus().remove(*pci);
    pci->unrealize();
    pci.reset();
  }

  VirtioDriver& driver() { return *driver_; }
  VirtioMachine& machine() { return *machine_; }
  MainLoop& loop() { return *loop_; }
  block::Graph& graph() { return *graph_; }
  Gs& gs() {
    bql.assert_held();
    return loop_->gs();
  }

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
        std::chrono::minutes(2)));
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

  DiskErrors errors;
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

}  // namespace rhea::test
