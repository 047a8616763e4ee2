// FakeVm: a machine that does at once what a monitor asks, and writes it down.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "vmm/vm_control.h"

namespace rhea::test {

class FakeVm final : public vmm::VmControl {
 public:
  vmm::RunState state() const override { return state_; }
  std::optional<std::string> name() const override { return name_; }
  std::string uuid() const override { return "00000000-0000-0000-0000-000000000000"; }
  vmm::KvmInfo kvm() const override { return {.enabled = true, .present = true}; }
  std::vector<vmm::VcpuInfo> vcpus() const override { return vcpus_; }

  Result<void> stop() REQUIRES(bql) override {
    state_ = vmm::RunState::kPaused;
    tell([](vmm::VmObserver& o) { o.stopped(); });
    return ok();
  }
  Result<void> cont() REQUIRES(bql) override {
    if (cont_error_) return *cont_error_;
    state_ = vmm::RunState::kRunning;
    tell([](vmm::VmObserver& o) { o.resumed(); });
    return ok();
  }
  Result<void> reset(vmm::Cause cause) REQUIRES(bql) override {
    tell([&](vmm::VmObserver& o) { o.was_reset(cause); });
    return ok();
  }
  Result<void> powerdown() REQUIRES(bql) override {
    tell([](vmm::VmObserver& o) { o.powerdown_requested(); });
    return ok();
  }
  void quit(vmm::Cause cause) REQUIRES(bql) override {
    quit_ = true;
    tell([&](vmm::VmObserver& o) { o.shutting_down(cause); });
  }
  void add_observer(vmm::VmObserver& observer) REQUIRES(bql) override {
    observers_.push_back(&observer);
  }
  void remove_observer(vmm::VmObserver& observer) REQUIRES(bql) override {
    std::erase(observers_, &observer);
  }

  template <class F>
  void tell(F&& what) {
    for (vmm::VmObserver* observer : observers_) what(*observer);
  }

  vmm::RunState state_ = vmm::RunState::kPrelaunch;
  std::optional<std::string> name_;
  std::optional<Error> cont_error_;
  std::vector<vmm::VcpuInfo> vcpus_;
  bool quit_ = false;
  std::vector<vmm::VmObserver*> observers_;
};

}  // namespace rhea::test
