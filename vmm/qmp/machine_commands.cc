#include "vmm/qmp/machine_commands.h"

#include <utility>

namespace rhea::vmm {

namespace {

QmpResult query_status(VmControl& vm) {
  const RunState state = vm.state();
  ReplyJson json;
  json["status"] = to_string(state);
  json["singlestep"] = false;
  json["running"] = state == RunState::kRunning;
  return json;
}

QmpResult query_kvm(VmControl& vm) {
  const KvmInfo kvm = vm.kvm();
  ReplyJson json;
  json["enabled"] = kvm.enabled;
  json["present"] = kvm.present;
  return json;
}

QmpResult query_cpus_fast(VmControl& vm) {
  ReplyJson cpus = ReplyJson::array();
  for (const VcpuInfo& vcpu : vm.vcpus()) {
    ReplyJson json;
    json["thread-id"] = vcpu.thread_id;
    json["props"] = {
        {"core-id", vcpu.core}, {"thread-id", vcpu.thread}, {"socket-id", vcpu.socket}};
    json["qom-path"] = fmt::format("/machine/unattached/device[{}]", vcpu.index);
    json["cpu-index"] = vcpu.index;
    json["target"] = "x86_64";
    cpus.push_back(std::move(json));
  }
  return cpus;
}

QmpResult query_name(VmControl& vm) {
  ReplyJson json = ReplyJson::object();
  if (const auto name = vm.name()) json["name"] = *name;
  return json;
}

QmpResult query_uuid(VmControl& vm) {
  ReplyJson json;
  json["UUID"] = vm.uuid();
  return json;
}

QmpResult stop(VmControl& vm) REQUIRES(bql) {
  TRY(vm.stop());
  return qmp_done();
}

QmpResult cont(VmControl& vm) REQUIRES(bql) {
  TRY(vm.cont());
  return qmp_done();
}

QmpResult system_reset(VmControl& vm) REQUIRES(bql) {
  TRY(vm.reset(Cause::kHostQmpSystemReset));
  return qmp_done();
}

QmpResult system_powerdown(VmControl& vm) REQUIRES(bql) {
  TRY(vm.powerdown());
  return qmp_done();
}

QmpResult quit(VmControl& vm) REQUIRES(bql) {
  vm.quit(Cause::kHostQmpQuit);
  return qmp_done();
}

}  // namespace

void add_machine_commands(QmpCommandTable& table, VmControl& vm) {
  using Function = QmpResult (*)(VmControl&);
  // The analysis does not follow a pointer; QmpSession::serve() has asserted the BQL.
  const auto add = [&](const char* name, Function function) {
    table.add({name, {}, [&vm, function](const Json&) { return function(vm); }});
  };
  add("query-status", query_status);
  add("query-kvm", query_kvm);
  add("query-cpus-fast", query_cpus_fast);
  add("query-name", query_name);
  add("query-uuid", query_uuid);
  add("stop", stop);
  add("cont", cont);
  add("system_reset", system_reset);
  add("system_powerdown", system_powerdown);
  add("quit", quit);
}

}  // namespace rhea::vmm
