// The table of all options, and the -help text made from it.
#include <array>

#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {
namespace {

/// A switch of the VmConfig.
template <bool VmConfig::* Field>
Result<void> set_flag(Draft& draft, const Given&) {
  draft.config.*Field = true;
  return ok();
}

/// A text of the VmConfig; given again, the last one counts. It names a file or a program's input,
/// so it can not be empty.
template <std::optional<std::string> VmConfig::* Field>
Result<void> set_text(Draft& draft, const Given& given) {
  if (given.value.empty()) return fail(ErrorKind::kInvalidArgument, "the argument is empty");
  draft.config.*Field = given.value;
  return ok();
}

Result<void> on_nodefaults(Draft& draft, const Given&) {
  draft.defaults = false;
  return ok();
}

Result<void> on_nographic(Draft& draft, const Given&) {
  draft.nographic = true;
  return ok();
}

Result<void> on_initrd(Draft& draft, const Given& given) {
  draft.initrd_origin = given.origin();
  return set_text<&VmConfig::initrd>(draft, given);
}

Result<void> on_append(Draft& draft, const Given& given) {
  draft.append_origin = given.origin();
  draft.config.append = given.value;
  return ok();
}

Result<void> on_mem_path(Draft& draft, const Given& given) {
  if (given.value.empty()) return fail(ErrorKind::kInvalidArgument, "the argument is empty");
  draft.mem_path = given.value;
  return ok();
}

Result<void> on_mem_prealloc(Draft& draft, const Given&) {
  draft.mem_prealloc = true;
  return ok();
}

Result<void> on_nothing(Draft&, const Given&) { return ok(); }

constexpr auto kNone = Takes::kNothing;
constexpr auto kValue = Takes::kValue;
constexpr auto kHidden = Shown::kNo;

constexpr std::array kTable{
    // Machine
    OptionRow{"machine", kValue, "[type=]pc[,accel=kvm|qtest][,memory-backend=ID]",
              "the machine (-machine help lists them)", on_machine},
    OptionRow{"M", kValue, "", "", on_machine, kHidden},
    OptionRow{"accel", kValue, "kvm[,dirty-ring-size=N]|qtest",
              "what runs the guest's CPUs; qtest runs none", on_accel},
    OptionRow{"enable-kvm", kNone, "", "the same as -accel kvm, which is the default",
              on_enable_kvm},
    OptionRow{"cpu", kValue, "host", "the CPU model", on_cpu},
    OptionRow{"smp", kValue, "[cpus=]N[,maxcpus=][,sockets=][,cores=][,threads=]",
              "number of CPUs and their topology (default 1)", on_smp},
    OptionRow{"m", kValue, "[size=]N[K|M|G|T]", "memory, in MiB without a suffix (default 128)",
              on_memory},
    OptionRow{"mem-path", kValue, "PATH", "take the memory from this file or hugetlbfs directory",
              on_mem_path},
    OptionRow{"mem-prealloc", kNone, "", "allocate the memory before the guest starts",
              on_mem_prealloc},
    OptionRow{"object", kValue, "TYPE,id=ID[,...]",
              "memory-backend-ram|memfd|file (size=, share=, prealloc=, hugetlb=, hugetlbsize=, "
              "mem-path=) for -machine memory-backend=ID; iothread (poll-max-ns=, poll-grow=, "
              "poll-shrink=) for a device's iothread=ID",
              on_object},
    OptionRow{"name", kValue, "[guest=]NAME[,debug-threads=on|off]", "the guest's name", on_name},
    OptionRow{"uuid", kValue, "UUID", "the machine's UUID", on_uuid},
    // Boot
    OptionRow{"kernel", kValue, "FILE", "a bzImage, or an ELF kernel with a PVH entry",
              set_text<&VmConfig::kernel>},
    OptionRow{"initrd", kValue, "FILE", "the initial RAM disk", on_initrd},
    OptionRow{"append", kValue, "TEXT", "the kernel's command line", on_append},
    // Disks
    OptionRow{"blockdev", kValue, "DRIVER,node-name=NAME[,...]",
              "add a block node: options of the driver, cache.direct=, cache.no-flush=, "
              "read-only=, discard=; nodes below it by name or in place (file.driver=, ...)",
              on_blockdev},
    OptionRow{"drive", kValue, "[file=FILE][,format=raw][,if=virtio|none][,id=ID][,...]",
              "a disk: cache=none|writeback|writethrough|directsync|unsafe, aio=, discard=, "
              "readonly=, werror=, rerror=, media=, index=, file.KEY=; a virtio disk unless "
              "if=none, which leaves it to -device ...,drive=ID",
              on_drive},
    // Devices and consoles
    OptionRow{"device", kValue, "DRIVER[,id=ID][,PROPERTY=VALUE,...]",
              "add a device (-device help lists drivers, -device DRIVER,help properties)",
              on_device},
    OptionRow{"chardev", kValue, "null|stdio|file|pty|socket,id=ID[,...]",
              "add a character device; socket takes path=, host= and port=, or fd=, and server=, "
              "wait=",
              on_chardev},
    OptionRow{"serial", kValue, "DEV",
              "a serial port: stdio, mon:stdio (with Ctrl-A keys and a monitor), file:F, "
              "unix:PATH[,server=on][,wait=off], tcp:HOST:PORT[,...], pty, null, none or "
              "chardev:ID; up to two",
              on_serial},
    OptionRow{"debugcon", kValue, "DEV", "the debug console at port 0x402", on_debugcon},
    OptionRow{"nographic", kNone, "", "serial port 0 is mon:stdio, unless -serial says else",
              on_nographic},
    OptionRow{"display", kValue, "none", "there is no display; serial port 0 is null by default",
              on_harmless},
    OptionRow{"nodefaults", kNone, "", "no serial port unless it is asked for", on_nodefaults},
    // Control
    OptionRow{"qmp", kValue, "DEV", "a QMP monitor, on the same kinds of DEV as -serial", on_qmp},
    OptionRow{"mon", kValue, "[chardev=]ID[,mode=readline|control]",
              "a monitor on a -chardev: for people, or QMP", on_mon},
    OptionRow{
        "monitor", kValue, "DEV",
        "a monitor for people, on the same kinds of DEV as -serial; none: no more than asked for",
        on_monitor},
    OptionRow{"qtest", kValue, "DEV", "serve the qtest protocol there", on_qtest},
    OptionRow{"qtest-log", kValue, "FILE", "log the qtest protocol",
              set_text<&VmConfig::qtest_log>},
    OptionRow{"S", kNone, "", "do not start the CPUs; a monitor's 'cont' does",
              set_flag<&VmConfig::start_paused>},
    OptionRow{"incoming", kValue, "tcp:HOST:PORT|unix:PATH|fd:FD|exec:COMMAND|file:PATH|defer",
              "wait for a machine from another instance instead of starting one; defer: until "
              "migrate-incoming says where",
              on_incoming},
    OptionRow{"no-reboot", kNone, "", "exit instead of rebooting", set_flag<&VmConfig::no_reboot>},
    OptionRow{"no-shutdown", kNone, "", "stop instead of exiting when the guest powers off",
              set_flag<&VmConfig::no_shutdown>},
    // Process
    OptionRow{"daemonize", kNone, "", "go to the background once ready",
              set_flag<&VmConfig::daemonize>},
    OptionRow{"pidfile", kValue, "FILE", "write the process id there",
              set_text<&VmConfig::pidfile>},
    OptionRow{"d", kValue, "FOLDER=LEVEL[,...]", "what to log (-d help lists folders and levels)",
              on_log},
    OptionRow{"D", kValue, "FILE", "log there instead of stderr", set_text<&VmConfig::log_file>},
    OptionRow{"version", kNone, "", "print the version and exit", on_version},
    OptionRow{"help", kNone, "", "print this text and exit", on_help},
    OptionRow{"h", kNone, "", "", on_help, kHidden},
    // Accepted because what they ask for is so anyway
    OptionRow{"no-user-config", kNone, "", "", on_nothing, kHidden},
    OptionRow{"no-hpet", kNone, "", "", on_nothing, kHidden},
    OptionRow{"no-fd-bootchk", kNone, "", "", on_nothing, kHidden},
    OptionRow{"overcommit", kValue, "", "", on_harmless, kHidden},
    OptionRow{"rtc", kValue, "", "", on_harmless, kHidden},
    OptionRow{"boot", kValue, "", "", on_harmless, kHidden},
    OptionRow{"msg", kValue, "", "", on_harmless, kHidden},
    OptionRow{"sandbox", kValue, "", "", on_harmless, kHidden},
    OptionRow{"audio", kValue, "", "", on_harmless, kHidden},
    OptionRow{"audiodev", kValue, "", "", on_harmless, kHidden},
    OptionRow{"vga", kValue, "", "", on_harmless, kHidden},
    OptionRow{"net", kValue, "", "", on_harmless, kHidden},
    OptionRow{"nic", kValue, "", "", on_harmless, kHidden},
    OptionRow{"parallel", kValue, "", "", on_harmless, kHidden},
    OptionRow{"global", kValue, "", "", on_global, kHidden},
    // Known, and refused with a reason
    OptionRow{"no-acpi", kNone, "", "", on_refused, kHidden},
    OptionRow{"usb", kNone, "", "", on_refused, kHidden},
    OptionRow{"hda", kValue, "", "", on_refused, kHidden},
    OptionRow{"cdrom", kValue, "", "", on_refused, kHidden},
    OptionRow{"netdev", kValue, "", "", on_refused, kHidden},
    OptionRow{"bios", kValue, "", "", on_refused, kHidden},
    OptionRow{"vnc", kValue, "", "", on_refused, kHidden},
};

}  // namespace

std::span<const OptionRow> option_table() { return kTable; }

std::string help_text() {
  std::string text =
      "usage: rhea [options]\n"
      "\n"
      "Runs a guest under KVM. The options are a subset of QEMU's and mean what they mean there.\n"
      "An option list is key=value,...; a comma in a value is written twice. -object, -blockdev\n"
      "and -device also take JSON. Of an option given again the last counts, of -machine, -m and\n"
      "-smp key by key; -serial, -device, -chardev, -object, -blockdev, -drive, -qmp and -mon add\n"
      "up.\n"
      "\n";
  for (const OptionRow& row : kTable) {
    if (row.shown == Shown::kNo) continue;
    text += row.syntax.empty() ? fmt::format("-{}\n", row.name)
                               : fmt::format("-{} {}\n", row.name, row.syntax);
    text += fmt::format("        {}\n", row.help);
  }
  return text;
}

}  // namespace rhea::vmm::cli
