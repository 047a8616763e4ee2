// A SCSI host adapter in a machine without a guest, its request queues on iothreads.
#pragma once

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "devices/virtio/virtio_scsi.h"
#include "tests/support/virtio_guest.h"
#include "tests/unit/devices/scsi_fakes.h"
#include "util/io_thread.h"
#include "util/rcu.h"

namespace rhea::test {

using devices::VirtioDevice;
using devices::VirtioPci;
using devices::VirtioScsi;
using devices::VirtioScsiConfig;
using devices::VirtioScsiEvent;
using devices::VirtioScsiLun;
using devices::VirtioScsiResponse;

/// A machine with one adapter in slot 3 and a driver of all its queues. Request n of a test has its
/// memory at page n: the request, the response at 0x400, data from 0x800.
class VirtioScsiAdapter {
 public:
  static constexpr uint64_t kPages = 0x20'0000, kPage = 0x1000, kResponse = 0x400, kData = 0x800;
  static constexpr uint16_t kSize = 64;

  // Unchecked: the destructor gives the BQL back.
  explicit VirtioScsiAdapter(unsigned queues = 1) NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    machine_ = std::make_unique<VirtioMachine>();
    VirtioScsiConfig config{.bus_name = "scsi0.0", .queues = {}, .queue_size = kSize};
    for (unsigned i = 0; i < queues; ++i) {
      threads_.push_back(MUST(IOThread::create("io")));
      config.queues.push_back(&threads_.back()->context());
    }
    auto made = std::make_unique<VirtioScsi>("scsi0", VirtioDevice::Host{*loop_, machine_->dma()},
                                             std::move(config));
    scsi = made.get();
    pci = std::make_shared<VirtioPci>("scsi0", std::move(made), machine_->msi(), *loop_);
    MUST(pci->realize());
    MUST(machine_->bus().add(pci, 3));
    driver_.emplace(*machine_, 3U);
  }
  // Unchecked: the constructor took the BQL.
  ~VirtioScsiAdapter() NO_THREAD_SAFETY_ANALYSIS {
    for (const auto& unit : scsi->bus().units()) {
      static_cast<FakeUnit&>(*unit).let_go();
      MUST(scsi->bus().remove(*unit));
    }
    machine_->bus().remove(*pci);
    pci->unrealize();
    pci.reset();
    machine_.reset();
    threads_.clear();
    loop_.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }

  VirtioDriver& driver() { return *driver_; }
  VirtioMachine& machine() { return *machine_; }
  MainLoop& loop() { return *loop_; }
  std::byte* page(unsigned n) { return machine_->ram() + kPages + n * kPage; }
  static uint64_t address(unsigned n) { return kPages + n * kPage; }

  std::shared_ptr<FakeUnit> add(uint16_t lun, uint8_t target = 0) {
    bql.assert_held();
    auto unit = std::make_shared<FakeUnit>(ScsiAddress{.target = target, .lun = lun});
    REQUIRE(scsi->bus().add(unit).has_value());
    return unit;
  }
  void remove(FakeUnit& unit) {
    bql.assert_held();
    REQUIRE(scsi->bus().remove(unit).has_value());
  }

  void start(uint64_t features = ~uint64_t{0}) {
    driver().negotiate(features);
    queues_.clear();
    for (uint16_t i = 0; i < scsi->queues(); ++i) {
      queues_.push_back(driver().set_up_queue(i, 0x1'0000 * (i + 1U), kSize, scsi->kick_fd(i)));
    }
    driver().go();
  }
  std::vector<GuestQueue>& queues() { return queues_; }
  GuestQueue& control() { return queues_[0]; }
  GuestQueue& events() { return queues_[1]; }
  GuestQueue& requests(unsigned n = 0) { return queues_[2 + n]; }

  /// Turns main's loop until `done`, as often as it takes.
  template <class F>
  void turn_until(F&& done) {
    bql.assert_held();
    while (!done()) {
      loop_->service().notify();  // nobody kicks for what a test looks at
      loop_->turn();
    }
  }
  /// Round each context, and main's: what was posted or rung for before has been done.
  void round_the_contexts() {
    std::atomic<unsigned> passed = 0;
    for (int left = 10; left > 0; --left) {
      turn_until([turned = false]() mutable { return std::exchange(turned, true); });
    }
    for (const auto& thread : threads_) {
      // Twice: a doorbell may be looked at behind the posts of its turn.
      thread->context().post([&] { thread->context().post([&passed] { ++passed; }); });
    }
    turn_until([&] { return passed == threads_.size(); });
  }

  /// The lun field of a request.
  static VirtioScsiLun lun(uint16_t lun, uint8_t target = 0) {
    return devices::encode_lun({.target = target, .lun = lun});
  }
  void write_command(unsigned n, std::initializer_list<uint8_t> cdb, const VirtioScsiLun& lun,
                     uint64_t tag = 0, size_t cdb_size = 32) {
    std::memset(page(n), 0, 19 + cdb_size);
    std::memcpy(page(n), lun.data(), lun.size());
    std::memcpy(page(n) + 8, &tag, sizeof tag);
    std::ranges::copy(std::as_bytes(std::span(cdb)), page(n) + 19);
    std::memset(page(n) + kResponse, 0xee, kPage - kResponse);
  }
  /// What a command is, as its pieces: request, data out, response, data in.
  static std::vector<GuestBuffer> chain(unsigned n, uint32_t out, uint32_t in,
                                        uint32_t sense_size = 96, uint32_t cdb_size = 32) {
    std::vector<GuestBuffer> pieces{{address(n), 19 + cdb_size, false}};
    if (out != 0) pieces.push_back({address(n) + kData, out, false});
    pieces.push_back({address(n) + kResponse, 12 + sense_size, true});
    if (in != 0) pieces.push_back({address(n) + kData, in, true});
    return pieces;
  }
  void offer(unsigned n, std::initializer_list<uint8_t> cdb, const VirtioScsiLun& lun,
             uint64_t tag = 0, unsigned queue = 0) {
    write_command(n, cdb, lun, tag);
    requests(queue).offer(chain(n, 0, 0));
    requests(queue).ring();
  }

  struct Answer {
    VirtioScsiResponse response;
    uint8_t status;
    uint32_t residual, sense_length, used;
    std::vector<uint8_t> sense;
  };
  Answer answer(unsigned n, uint32_t used) {
    devices::VirtioScsiResponseHead head;
    std::memcpy(&head, page(n) + kResponse, sizeof head);
    const auto* sense = reinterpret_cast<const uint8_t*>(page(n) + kResponse + sizeof head);
    return {.response = static_cast<VirtioScsiResponse>(head.response),
            .status = head.status,
            .residual = head.residual,
            .sense_length = head.sense_length,
            .used = used,
            .sense = {sense, sense + std::min<uint32_t>(head.sense_length, 252)}};
  }
  /// Waits for the next request of a queue to end; the bytes written.
  uint32_t wait_used(GuestQueue& queue) {
    std::optional<std::pair<uint16_t, uint32_t>> done;
    turn_until([&] { return (done = queue.take()).has_value(); });
    return done->second;
  }
  /// Does one command on page 0.
  Answer command(std::initializer_list<uint8_t> cdb, const VirtioScsiLun& lun, uint32_t out = 0,
                 uint32_t in = 0) {
    write_command(0, cdb, lun);
    std::memset(page(0) + kData, 1, out);
    requests().offer(chain(0, out, in));
    requests().ring();
    return answer(0, wait_used(requests()));
  }
  /// A unit that has told of its power-on.
  std::shared_ptr<FakeUnit> add_ready(uint16_t lun, uint8_t target = 0) {
    auto unit = add(lun, target);
    CHECK(command({0}, VirtioScsiAdapter::lun(lun, target)).status == 2);
    return unit;
  }

  /// Asks for a task management function on page `n`.
  void offer_task(devices::VirtioScsiTask task, const VirtioScsiLun& lun, uint64_t tag = 0,
                  unsigned n = 100) {
    const devices::VirtioScsiTaskManagement what{
        .type = 0, .subtype = std::to_underlying(task), .lun = lun, .id = tag};
    std::memcpy(page(n), &what, sizeof what);
    page(n)[kResponse] = std::byte{0xee};
    control().offer(std::array{GuestBuffer{address(n), sizeof what, false},
                               GuestBuffer{address(n) + kResponse, 1, true}});
    control().ring();
  }
  VirtioScsiResponse task(devices::VirtioScsiTask task, const VirtioScsiLun& lun,
                          uint64_t tag = 0) {
    offer_task(task, lun, tag);
    CHECK(wait_used(control()) == 1);
    return static_cast<VirtioScsiResponse>(page(100)[kResponse]);
  }

  /// Gives the device a buffer for an event, on page `n`; its head.
  uint16_t offer_event(unsigned n, uint32_t size = sizeof(VirtioScsiEvent)) {
    std::memset(page(n), 0xee, size);
    const uint16_t head = events().offer(std::array{GuestBuffer{address(n), size, true}});
    events().ring();
    return head;
  }
  VirtioScsiEvent event(unsigned n) {
    VirtioScsiEvent event;
    std::memcpy(&event, page(n), sizeof event);
    return event;
  }

  VirtioScsi* scsi = nullptr;
  std::shared_ptr<VirtioPci> pci;

 private:
  RcuThread rcu_thread_;
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<VirtioMachine> machine_;
  std::vector<std::unique_ptr<IOThread>> threads_;
  std::optional<VirtioDriver> driver_;
  std::vector<GuestQueue> queues_;
};

}  // namespace rhea::test
