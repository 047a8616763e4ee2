#include "vmm/run_vm.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "util/bql.h"
#include "util/fd.h"
#include "util/main_loop.h"
#include "util/rcu.h"
#include "vmm/chardev/chardev.h"
#include "vmm/chardev/query_chardev.h"
#include "vmm/hotplug.h"
#include "vmm/kvm/kvm_accel.h"
#include "vmm/migration/migrator.h"
#include "vmm/migration/moved_machine.h"
#include "vmm/pc_machine.h"
#include "vmm/qmp/blkdebug_commands.h"
#include "vmm/qmp/block_commands.h"
#include "vmm/qmp/block_queries.h"
#include "vmm/qmp/device_commands.h"
#include "vmm/qmp/fd_commands.h"
#include "vmm/qmp/job_commands.h"
#include "vmm/qmp/machine_commands.h"
#include "vmm/qmp/media_commands.h"
#include "vmm/qmp/migration_commands.h"
#include "vmm/qmp/object_commands.h"
#include "vmm/qmp/pci_query.h"
#include "vmm/qmp/qom_commands.h"
#include "vmm/qmp/server.h"
#include "vmm/qmp/throttle_command.h"
#include "vmm/qom_machine.h"
#include "vmm/qtest.h"
#include "vmm/qtest_accel.h"
#include "vmm/storage.h"
#include "vmm/user_devices.h"
#include "vmm/version.h"
#include "vmm/vm.h"
#include "vmm/vm_clock.h"

namespace rhea::vmm {
namespace {

/// Both sides have to be the same machine: nothing is reconfigured while it moves. What is plugged
/// is Hotplug's to refuse, and nobody lifts that. A job that is completed would give the guest an
/// image that the destination does not know of; it may be cancelled.
constexpr std::array<std::string_view, 19> kNotWhileMigrating{
    "blockdev-add",
    "blockdev-del",
    "blockdev-reopen",
    "blockdev-mirror",
    "job-complete",
    "block-job-complete",
    "block_resize",
    "block_set_io_throttle",
    "object-add",
    "object-del",
    "x-blockdev-set-iothread",
    "eject",
    "blockdev-change-medium",
    "blockdev-open-tray",
    "blockdev-close-tray",
    "blockdev-insert-medium",
    "blockdev-remove-medium",
    "x-forbid-hotplug",
    "x-allow-hotplug",
};

/// The host's date, for the RTC.
class UtcClock final : public Clock {
 public:
  Nanoseconds now() const noexcept override {
    return std::chrono::duration_cast<Nanoseconds>(
        std::chrono::system_clock::now().time_since_epoch());
  }
  Nanoseconds host_time_until(Nanoseconds deadline) const noexcept override {
    return std::max(deadline - now(), Nanoseconds::zero());
  }
};

/// The signals that end the machine, as a descriptor. Blocked before the first thread starts, so
/// that no other thread takes one.
Result<Fd> ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  const int fd = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) return fail_errno(errno, "signalfd");
  return Fd(fd);
}

/// Everything of one machine, in the order in which it is made; taken apart in the reverse order.
class Process {
 public:
  explicit Process(const VmConfig& config) : config_(config) {}

  Result<void> assemble() REQUIRES(bql) {
    if (config_.accelerator == Accelerator::kKvm && !config_.kernel) {
      return fail(ErrorKind::kInvalidArgument,
                  "-kernel is missing: there is no firmware that would find something to boot");
    }
    loop_ = TRY(MainLoop::create());
    signals_ = TRY(ending_signals());
    TRY(open_chardevs());
    TRY(make_accel());
    timers_ = std::make_unique<TimerList>(*clock_, [this] { loop_->service().notify(); });
    loop_->serve_timers(timers_.get());
    vm_ = std::make_unique<Vm>(config_, Vm::Parts{*loop_, *accel_, *clock_});
    TRY(make_storage());
    TRY(make_machine());
    make_migrator();
    TRY(open_monitors());
    TRY(await_arrival());
    signal_watch_ = TRY(loop_->service().watch(signals_.get(), FdEvents::kRead, [this](FdEvents) {
      bql.assert_held();
      signalfd_siginfo info{};
      if (::read(signals_.get(), &info, sizeof info) == sizeof info) vm_->quit(Cause::kHostSignal);
    }));
    return ok();
  }

  Result<int> run() REQUIRES(bql) {
    if (!config_.start_paused && !config_.incoming) TRY(vm_->cont());
    loop_->run();
    return vm_->exit_status();
  }

  /// Ends threads and devices; what RCU still holds goes when the caller drains it without the BQL.
  /// Errors: kTimeout, a request does not end. Nothing that its thread may use has gone then.
  Result<void> take_apart() REQUIRES(bql) {
    signal_watch_ = FdWatch();
    if (accel_ != nullptr) accel_->shut_down();
    qtest_.reset();
    end_migrator();
    if (qmp_ != nullptr) vm_->remove_observer(*qmp_);
    if (hotplug_ != nullptr) hotplug_->set_publisher(nullptr);
    if (storage_ != nullptr) storage_->disks().set_tray_listener(nullptr);
    qmp_.reset();
    // Devices let go of disks and iothreads, then the graph of nodes, then the iothreads.
    if (storage_ != nullptr) {
      storage_->job_events().set_publisher(nullptr);
      TRY(silence_disks());
      storage_->jobs().cancel_all(loop_->gs(), storage_->graph());
    }
    if (hotplug_ != nullptr) vm_->remove_observer(*hotplug_);
    hotplug_.reset();
    if (devices_ != nullptr) vm_->remove_observer(*devices_);
    devices_.reset();
    if (storage_ != nullptr) vm_->remove_observer(storage_->disks());
    storage_.reset();
    machine_.reset();
    chardevs_.clear();
    if (loop_ != nullptr) loop_->serve_timers(nullptr);
    return ok();
  }
  /// Instead of what take_apart() could not do: gives back what is not this process's alone.
  void let_go_of_chardevs() REQUIRES(bql) { chardevs_.clear(); }

 private:
  /// Devices and jobs ask for nothing more, and what they have asked for has ended; so none of the
  /// waiting that follows takes long.
  Result<void> silence_disks() REQUIRES(bql) {
    if (devices_ != nullptr) devices_->silence();
    for (block::Job* job : storage_->jobs().all()) job->cancel(block::Job::Cancel::kForce);
    const auto nothing = [](block::DrainBypass&) -> Result<void> { return ok(); };
    return storage_->graph().with_all_drained(loop_->gs(), nothing);
  }

  Result<void> open_chardevs() REQUIRES(bql) {
    for (const ChardevConfig& config : config_.chardevs) {
      const ChardevHooks hooks{.quit = [this] {
        bql.assert_held();
        vm_->quit(Cause::kHostUi);
      }};
      auto made = make_chardev(config, loop_->service(), hooks);
      if (!made) return std::move(made).error().context(config.original);
      chardevs_.push_back(std::move(*made));
    }
    return ok();
  }

  Chardev* chardev(const std::string& id) {
    for (auto& chardev : chardevs_) {
      if (chardev->label() == id) return chardev.get();
    }
    return nullptr;
  }

  Result<void> make_accel() REQUIRES(bql) {
    const bool qtest = config_.accelerator == Accelerator::kQtest;
    clock_ = std::make_unique<VmClock>(
        host_clock_, qtest ? VmClock::Mode::kStepped : VmClock::Mode::kFollowsHost);
    if (qtest) {
      auto accel = std::make_unique<QtestAccel>(loop_->service(), *clock_);
      interceptor_ = &accel->interceptor();
      accel_ = std::move(accel);
    } else {
      accel_ = TRY(KvmAccel::create(*clock_, {.ring_entries = config_.dirty_ring_entries}));
    }
    return ok();
  }

  Result<void> make_storage() REQUIRES(bql) {
    storage_ = std::make_unique<Storage>(*loop_);
    storage_->disks().set_machine(vm_.get());
    vm_->add_observer(storage_->disks());
    // The images are the other side's until the machine is here.
    if (config_.incoming) TRY(storage_->graph().inactivate_all(loop_->gs()));
    return storage_->assemble(loop_->gs(), config_);
  }

  Result<void> make_devices() REQUIRES(bql) {
    devices_ = std::make_unique<UserDevices>(DeviceHost{.loop = *loop_,
                                                        .storage = *storage_,
                                                        .memory = machine_->memory(),
                                                        .msi = accel_->msi()},
                                             machine_->pci());
    // Behind the disks: a device that runs requests again finds their errors forgotten.
    vm_->add_observer(*devices_);
    for (const DeviceConfig& config : config_.devices) {
      auto added = devices_->add(config);
      if (!added) return std::move(added).error().context(config.origin);
    }
    const bool qtest = config_.accelerator == Accelerator::kQtest;
    hotplug_ = std::make_unique<Hotplug>(
        Hotplug::Parts{.service = loop_->service(),
                       .devices = *devices_,
                       .registers = machine_->pci_hotplug(),
                       // A guest that is stopped does not answer either.
                       .timers = qtest ? *timers_ : loop_->service().timers(),
                       .patience = config_.unplug_timeout});
    vm_->add_observer(*hotplug_);
    return ok();
  }

  Result<void> make_machine() REQUIRES(bql) {
    std::vector<devices::CharBackend*> serials;
    for (const std::string& id : config_.serials) {
      serials.push_back(id.empty() ? nullptr : chardev(id));
    }
    devices::CharBackend* debug = config_.debug_console ? chardev(*config_.debug_console) : nullptr;
    machine_ = TRY(PcMachine::create(config_, PcMachine::Wiring{.irqs = accel_->irqs(),
                                                                .msi = accel_->msi(),
                                                                .requests = *vm_,
                                                                .vm_timers = *timers_,
                                                                .utc = utc_clock_,
                                                                .serials = std::move(serials),
                                                                .debug_console = debug}));
    TRY(accel_->attach(machine_->memory(), machine_->io()));
    TRY(machine_->add_devices());
    TRY(make_devices());
    TRY(accel_->create_vcpus(config_.smp, *vm_));
    if (!config_.incoming) return vm_->power_on(*machine_);
    vm_->await_arrival(*machine_);
    return ok();
  }

  void make_migrator() REQUIRES(bql) {
    moved_machine_ = std::make_unique<MovedMachine>(MovedMachine::Parts{.config = config_,
                                                                        .loop = *loop_,
                                                                        .vm = *vm_,
                                                                        .accel = *accel_,
                                                                        .board = *machine_,
                                                                        .storage = *storage_,
                                                                        .devices = *devices_});
    migrator_ = std::make_unique<Migrator>(Migrator::Parts{.service = loop_->service(),
                                                           .vm = *vm_,
                                                           .machine = *moved_machine_,
                                                           .board = *machine_,
                                                           .hotplug = *hotplug_});
    vm_->add_observer(*moved_machine_);
    vm_->add_observer(*migrator_);
    // Who has sent its machine away, or got one that is not to run yet, has given up the images.
    vm_->set_run_gate([this] {
      bql.assert_held();
      return moved_machine_->take_locks();
    });
  }

  void end_migrator() REQUIRES(bql) {
    if (migrator_ == nullptr) return;
    vm_->set_run_gate(nullptr);
    vm_->remove_observer(*migrator_);
    vm_->remove_observer(*moved_machine_);
    migrator_.reset();
    moved_machine_.reset();
  }

  Result<void> await_arrival() REQUIRES(bql) {
    if (!config_.incoming || config_.incoming == "defer") return ok();
    auto awaited = migrator_->await(*config_.incoming, {});
    if (awaited) return ok();
    return std::move(awaited).error().context(fmt::format("-incoming {}", *config_.incoming));
  }

  Result<void> open_monitors() REQUIRES(bql) {
    QmpCommandTable commands;
    add_machine_commands(commands, *vm_);
    add_object_commands(commands, *loop_, storage_->objects());
    add_device_commands(commands, *hotplug_);
    add_pci_query(commands, machine_->pci(), *devices_);
    add_qom_commands(commands, [this] {
      bql.assert_held();
      return describe_machine({.config = config_,
                               .vm = *vm_,
                               .objects = storage_->objects(),
                               .devices = *devices_,
                               .bus = machine_->pci()});
    });
    add_block_commands(commands, *loop_, *storage_);
    add_media_commands(commands, *loop_, *storage_, devices_.get());
    add_throttle_command(commands, *loop_, *storage_);
    add_block_queries(commands, *loop_, *storage_);
    add_blkdebug_commands(commands, *loop_, *storage_);
    add_job_commands(commands, *loop_, *storage_);
    add_fd_commands(commands);
    add_migration_commands(commands, *migrator_);
    commands.guard(kNotWhileMigrating, [this](std::string_view command) {
      bql.assert_held();
      return migrator_->check_idle(command);
    });
    add_chardev_commands(commands, [this] {
      std::vector<const Chardev*> list;
      for (const auto& chardev : chardevs_) list.push_back(chardev.get());
      return list;
    });
    qmp_ = std::make_unique<QmpServer>(loop_->service(), *vm_, std::move(commands),
                                       QmpVersion{.package = fmt::format("rhea-{}", version())});
    hotplug_->set_publisher(
        [this](std::string_view event, const ReplyJson& data) { qmp_->publish(event, data); });
    migrator_->set_publisher(
        [this](std::string_view event, const ReplyJson& data) { qmp_->publish(event, data); });
    storage_->job_events().set_publisher(
        [this](std::string_view event, const ReplyJson& data) { qmp_->publish(event, data); });
    storage_->disks().set_tray_listener([this](const Disk& disk, TrayPosition to) {
      qmp_->publish("DEVICE_TRAY_MOVED", tray_json(disk, to));
    });
    for (const MonitorConfig& monitor : config_.monitors) {
      Chardev& on = *chardev(monitor.chardev_id);
      if (monitor.mode == MonitorConfig::Mode::kControl) {
        qmp_->add_monitor(on);
      } else {
        qmp_->add_human_monitor(on.monitor_end());
      }
    }
    if (config_.qtest_chardev && interceptor_ != nullptr) {
      qtest_ =
          std::make_unique<QtestServer>(QtestServer::Machine{machine_->memory(), machine_->io(),
                                                             *clock_, *timers_, *interceptor_},
                                        *chardev(*config_.qtest_chardev));
    }
    return ok();
  }

  const VmConfig& config_;
  HostClock host_clock_;
  UtcClock utc_clock_;
  std::unique_ptr<MainLoop> loop_;
  Fd signals_;
  std::vector<std::unique_ptr<Chardev>> chardevs_;
  std::unique_ptr<VmClock> clock_;
  std::unique_ptr<TimerList> timers_;
  std::unique_ptr<Accel> accel_;
  IrqInterceptor* interceptor_ = nullptr;  // the qtest accelerator's
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Storage> storage_;
  std::unique_ptr<PcMachine> machine_;
  std::unique_ptr<UserDevices> devices_;
  std::unique_ptr<Hotplug> hotplug_;
  std::unique_ptr<MovedMachine> moved_machine_;
  std::unique_ptr<Migrator> migrator_;
  std::unique_ptr<QmpServer> qmp_;
  std::unique_ptr<QtestServer> qtest_;
  FdWatch signal_watch_;
};

Result<void> start(Process& process, ReadyNotifier& ready) REQUIRES(bql) {
  TRY(process.assemble());
  return ready.notify();
}

}  // namespace

Result<VmEnd> run_vm(const VmConfig& config, ReadyNotifier& ready) {
  const RcuThread registration;
  auto process = std::make_unique<Process>(config);
  Result<int> status = 0;
  {
    const BqlGuard guard;
    if (auto started = start(*process, ready); !started) {
      status = std::move(started).error();
    } else {
      status = process->run();
    }
    if (const auto apart = process->take_apart(); !apart) {
      process->let_go_of_chardevs();
      static_cast<void>(process.release());  // threads use it until the process ends
      return VmEnd{.status = 1,
                   .left_behind = "left without waiting any longer: " + apart.error().message()};
    }
  }
  // Views that were replaced hold devices until their readers have left.
  rcu_drain_callbacks();
  if (!status) return std::move(status).error();
  return VmEnd{.status = *status, .left_behind = {}};
}

}  // namespace rhea::vmm
