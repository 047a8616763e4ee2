// QmpServer: every monitor of the machine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "vmm/hmp/human_monitor.h"
#include "vmm/hmp/session.h"
#include "vmm/qmp/command.h"
#include "vmm/qmp/session.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// What the greeting and query-version tell: clients take the version of QEMU, people the package.
struct QmpVersion {
  int major = 7, minor = 2, micro = 0;
  std::string package;  ///< "rhea-0.1.0"
};

/// Owns the sessions, and publishes what happens to the machine to all of them.
///
/// One monitor serves one client at a time: who connects meanwhile waits in the listen queue. For
/// several clients at once give several monitors; each sees every event.
///
/// Thread: main, service context, BQL held.
class QmpServer final : public VmObserver {
 public:
  /// `vm`, `context` and the backends of the monitors outlive the server. query-version,
  /// query-commands, query-qmp-schema, human-monitor-command and qmp_capabilities come with it;
  /// `commands` are all others.
  QmpServer(AioContext& context, VmControl& vm, QmpCommandTable commands, QmpVersion version,
            QmpLimits limits = {}) REQUIRES(bql);
  ~QmpServer() override;

  /// Opens a monitor on `backend`.
  void add_monitor(devices::CharBackend& backend) REQUIRES(bql);
  /// The same, for people; it has the same commands, said in another way.
  void add_human_monitor(devices::CharBackend& backend) REQUIRES(bql);

  /// Sends an event, one of qmp_events(), to every client that has negotiated. `data` null: none.
  void publish(std::string_view event, const ReplyJson& data = nullptr);

  void stopped() override;
  void resumed() override;
  void was_reset(Cause cause) override;
  void powerdown_requested() override;
  void shutting_down(Cause cause) override;
  void disk_error(const DiskError& error) override;

 private:
  AioContext& context_;
  VmControl& vm_;
  QmpCommandTable commands_;
  const QmpVersion version_;
  const QmpLimits limits_;
  const HumanMonitor human_{commands_};
  std::vector<std::unique_ptr<QmpSession>> sessions_;
  std::vector<std::unique_ptr<HmpSession>> human_sessions_;
};

}  // namespace rhea::vmm
