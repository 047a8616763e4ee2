// Main keeps the BQL for as long as it likes, and disks whose queues are on iothreads do not
// notice.
#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

#include "tests/support/size.h"
#include "tests/unit/devices/virtio_disk.h"
#include "util/one_shot_event.h"

using namespace rhea;
using test::FakeMsi;
using test::GuestBuffer;
using test::GuestQueue;
using test::VirtioDisk;

namespace {

using std::chrono::seconds;

constexpr uint64_t kAtOnce = 8;

/// What a vCPU does with one queue: requests, a doorbell, and a look at the used ring after each
/// interrupt. No lock.
class Vcpu {
 public:
  Vcpu(VirtioDisk& disk, GuestQueue queue, FakeMsi::Vector& interrupts, unsigned number)
      : queue_(std::move(queue)), interrupts_(interrupts) {
    const uint64_t at = 0x10'0000 + 0x1'0000 * uint64_t{number};
    std::memset(disk.machine().ram() + at, 0, 16);  // reads of sector 0
    chain_ = {GuestBuffer{at, 16, false}, GuestBuffer{at + 0x1000, 512, true},
              GuestBuffer{at + 0x2000, 1, true}};
  }
  /// Makes `count` requests, or fewer if it is told to give up.
  void run(uint64_t count) {
    uint64_t offered = 0;
    while (done_ < count && !gives_up_) {
      bool rings = false;
      for (; offered < count && offered - done_ < kAtOnce; ++offered, rings = true) {
        queue_.offer(chain_);
      }
      if (rings) queue_.ring();
      const uint64_t interrupts = interrupts_.delivered();
      if (interrupts == seen_) {
        std::this_thread::yield();
        continue;
      }
      seen_ = interrupts;
      while (queue_.take()) ++done_;
    }
  }
  void give_up() { gives_up_ = true; }
  uint64_t done() const { return done_; }

 private:
  GuestQueue queue_;
  FakeMsi::Vector& interrupts_;
  std::array<GuestBuffer, 3> chain_;
  std::atomic<uint64_t> done_{0};
  std::atomic<bool> gives_up_{false};
  uint64_t seen_ = 0;
};

struct Hold {
  uint64_t before = 0, after = 0;  // requests done when it began, when it ended
  bool ended_early = false;        // because all were done
};

/// vCPUs make `count` requests each, while a handler on main has the BQL until they are through, or
/// for `longest`; then they are given the time they need.
Hold hold_the_bql(VirtioDisk& disk, std::deque<Vcpu>& vcpus, uint64_t count, seconds longest) {
  Hold hold;
  std::vector<std::thread> threads;
  std::atomic<size_t> left = vcpus.size();
  OneShotEvent all_done;
  const auto done = [&] {
    uint64_t sum = 0;
    for (const Vcpu& vcpu : vcpus) sum += vcpu.done();
    return sum;
  };
  disk.loop().service().post([&] {
    hold.before = done();
    for (Vcpu& vcpu : vcpus) {
      threads.emplace_back([&] {
        vcpu.run(count);
        if (--left == 0) all_done.set();
      });
    }
    hold.ended_early = all_done.wait_for(longest);
    hold.after = done();
  });
  bql.assert_held();
  disk.loop().turn();
  const auto patience = std::chrono::steady_clock::now() + seconds(120);
  while (left != 0 && std::chrono::steady_clock::now() < patience) {
    disk.loop().service().notify();
    disk.loop().turn();
  }
  for (Vcpu& vcpu : vcpus) vcpu.give_up();
  for (std::thread& thread : threads) thread.join();
  return hold;
}

using Vcpus = std::deque<Vcpu>;

/// The disk goes live: a vCPU for each queue, with an interrupt of its own.
void start(VirtioDisk& disk, unsigned queues, Vcpus& vcpus) {
  bql.assert_held();
  disk.driver().use_msix();
  disk.driver().negotiate(~devices::bit(devices::VirtioFeature::kEventIdx));
  for (uint16_t i = 0; i < queues; ++i) {
    const auto vector = static_cast<uint16_t>(i + 1);
    GuestQueue queue =
        disk.driver().set_up_queue(i, 0x1'0000U * vector, 64, disk.blk->kick_fd(i), vector);
    vcpus.emplace_back(disk, std::move(queue), *disk.machine().msi().vectors[vector], i);
  }
  disk.driver().go();
}

}  // namespace

TEST_CASE("VirtioBlk: 10^4 requests on each of two iothreads are done while main keeps the BQL",
          "[virtio-blk]") {
  const uint64_t count = test::sized<uint64_t>(10'000, 100'000);
  VirtioDisk disk(2);
  Vcpus vcpus;
  start(disk, 2, vcpus);
  const uint64_t taken = bql.acquisitions();
  const Hold hold = hold_the_bql(disk, vcpus, count, seconds(600));
  INFO(hold.after - hold.before << " requests in the hold, BQL taken " << bql.acquisitions() - taken
                                << " times in all");
  CHECK(hold.before == 0);
  CHECK(hold.after == 2 * count);
  CHECK(hold.ended_early);
}

TEST_CASE("VirtioBlk: a disk on the main loop stands still while main keeps the BQL, and goes on",
          "[virtio-blk]") {
  VirtioDisk disk(1, "driver=null-co,read-zeroes=on,size=1M", {}, VirtioDisk::QueuesOn::kMain);
  Vcpus vcpus;
  start(disk, 1, vcpus);
  const Hold hold = hold_the_bql(disk, vcpus, 100, seconds(2));
  CHECK(hold.after == 0);
  CHECK_FALSE(hold.ended_early);
  CHECK(vcpus[0].done() == 100);
}
