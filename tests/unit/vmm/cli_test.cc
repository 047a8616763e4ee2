#include "vmm/cli.h"

#include <catch2/catch.hpp>

#include "tests/unit/vmm/cli_support.h"
#include "util/parse.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::test;

namespace {

using Chardev = ChardevConfig::Type;
using Memory = MemoryBackendConfig::Type;

std::string topology(std::string_view line) {
  const SmpConfig smp = config_of(line).smp;
  return fmt::format("{}/{} {}*{}*{}", smp.cpus, smp.max_cpus, smp.sockets, smp.cores, smp.threads);
}

const ChardevConfig& chardev(const VmConfig& config, std::string_view id) {
  const auto at = std::ranges::find(config.chardevs, id, &ChardevConfig::id);
  if (at == config.chardevs.end()) throw std::runtime_error(fmt::format("no chardev {}", id));
  return *at;
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("command line: nothing given is a pc with one CPU, 128 MiB and an unconnected port",
          "[cli]") {
  const VmConfig config = config_of("");
  CHECK(config.machine == "pc");
  CHECK(config.accelerator == Accelerator::kKvm);
  CHECK(config.smp.cpus == 1);
  CHECK(config.memory.type == Memory::kRam);
  CHECK(config.memory.id == "pc.ram");
  CHECK(config.memory.size_bytes == 128 * kMiB);
  CHECK_FALSE(config.memory.prealloc);
  CHECK_FALSE(config.kernel.has_value());
  CHECK(config.serials == Texts{"serial0"});
  CHECK(chardev(config, "serial0").type == Chardev::kNull);
  CHECK(config.monitors.empty());
}

TEST_CASE("command line: the line that boots a kernel", "[cli]") {
  const VmConfig config = config_of(
      "-machine pc,accel=kvm -cpu host -m 1G -smp 4 -kernel bzImage -initrd initrd.img "
      "-append 'console=ttyS0 root=/dev/vda' -nographic -nodefaults -serial mon:stdio "
      "-qmp unix:/tmp/q,server=on,wait=off -no-reboot -S -name guest=vm,debug-threads=on "
      "-uuid D15E375D-5b0e-4fb6-bed6-cd44843cd267 -pidfile /tmp/pid -d devices=trace -D /tmp/log");
  CHECK(config.memory.size_bytes == kGiB);
  CHECK(config.smp.cpus == 4);
  CHECK(config.kernel == "bzImage");
  CHECK(config.initrd == "initrd.img");
  CHECK(config.append == "console=ttyS0 root=/dev/vda");
  CHECK(config.serials == Texts{"serial0"});
  const ChardevConfig& serial = chardev(config, "serial0");
  CHECK(serial.type == Chardev::kStdio);
  CHECK(serial.mux);
  CHECK_FALSE(serial.signal);
  REQUIRE(config.monitors.size() == 2);  // and the console's
  const ChardevConfig& qmp = chardev(config, config.monitors[0].chardev_id);
  CHECK(qmp.id == "compat_monitor0");
  CHECK(qmp.type == Chardev::kUnixSocket);
  CHECK(qmp.path == "/tmp/q");
  CHECK(qmp.server);
  CHECK_FALSE(qmp.wait);
  CHECK(qmp.original == "-qmp unix:/tmp/q,server=on,wait=off");
  CHECK(config.start_paused);
  CHECK(config.no_reboot);
  CHECK_FALSE(config.no_shutdown);
  CHECK(config.name == "vm");
  CHECK(config.uuid == "d15e375d-5b0e-4fb6-bed6-cd44843cd267");
  CHECK(config.pidfile == "/tmp/pid");
  CHECK(config.log_spec == "devices=trace");
  CHECK(config.log_file == "/tmp/log");
}

TEST_CASE("command line: what libvirt passes is accepted", "[cli]") {
  const VmConfig config = config_of(
      "-name guest=min,debug-threads=on -S "
      R"(-object {"qom-type":"secret","id":"masterKey0","format":"raw","file":"/k.aes"} )"
      "-machine pc-i440fx-7.2,usb=off,dump-guest-core=off,vmport=off,memory-backend=pc.ram "
      "-accel kvm -cpu host,migratable=on -m 256 "
      R"(-object {"qom-type":"memory-backend-ram","id":"pc.ram","size":268435456} )"
      "-overcommit mem-lock=off -smp 2,sockets=2,cores=1,threads=1 "
      "-uuid d15e375d-5b0e-4fb6-bed6-cd44843cd267 -display none -no-user-config -nodefaults "
      "-chardev socket,id=charmonitor,fd=27,server=on,wait=off "
      "-mon chardev=charmonitor,id=monitor,mode=control "
      "-rtc base=utc,driftfix=slew -global kvm-pit.lost_tick_policy=delay -no-hpet -no-shutdown "
      "-global PIIX4_PM.disable_s3=1 -boot strict=on -kernel V -initrd I -append 'quiet' "
      "-chardev pty,id=charserial0 "
      R"(-device {"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0} )"
      R"(-audiodev {"id":"audio1","driver":"none"} -sandbox off -msg timestamp=on)");
  CHECK(config.memory.id == "pc.ram");
  CHECK(config.memory.size_bytes == 256 * kMiB);
  CHECK(config.smp.sockets == 2);
  CHECK(config.no_shutdown);
  CHECK(config.serials == Texts{"charserial0"});
  CHECK(chardev(config, "charserial0").type == Chardev::kPty);
  REQUIRE(config.monitors.size() == 1);
  CHECK(config.monitors[0].chardev_id == "charmonitor");
  CHECK(chardev(config, "charmonitor").fd == 27);
  CHECK(chardev(config, "charmonitor").server);
}

TEST_CASE("command line: options are recognised with one '-' or two, and nothing else is",
          "[cli]") {
  CHECK(config_of("--m 64 -M pc").memory.size_bytes == 64 * kMiB);
  check_messages({
      {"-bogus", "-bogus: invalid option"},
      {"-bogus=1 -S", "-bogus=1: invalid option"},
      {"-S=1", "-S=1: invalid option"},
      {"-m=1G", "-m=1G: invalid option"},
      {"-", "-: invalid option"},
      {"--", "--: invalid option"},
      {"---m 1", "---m: invalid option"},
      {"-m", "-m: requires an argument"},
      {"-S -kernel", "-kernel: requires an argument"},
      {"disk.img", "disk.img: not an option (disks are not given bare)"},
      {"''", ": not an option (disks are not given bare)"},
      {"-mm 1", "-mm: invalid option"},
      {"-'a\nb'", "-'a\\nb': invalid option"},
  });
}

TEST_CASE("command line: how long a guest may take to let a device go", "[cli]") {
  CHECK(config_of("-machine pc").unplug_timeout == std::chrono::seconds(30));
  CHECK(config_of("-machine pc,x-unplug-timeout=5").unplug_timeout == std::chrono::seconds(5));
  check_messages({
      {"-machine pc,x-unplug-timeout=0",
       "-machine pc,x-unplug-timeout=0: Parameter 'x-unplug-timeout' expects a value between "
       "1 and 86400"},
      {"-machine pc,x-unplug-timeout=soon",
       "-machine pc,x-unplug-timeout=soon: Parameter 'x-unplug-timeout' expects integer, not "
       "'soon'"},
  });
}

TEST_CASE("command line: a value is taken as it is, whatever it looks like", "[cli]") {
  CHECK(config_of("-kernel -S -append --").kernel == "-S");
  CHECK_FALSE(config_of("-kernel -S -append --").start_paused);
  CHECK(config_of("-kernel k -append --").append == "--");
  CHECK(config_of("-kernel k -append ''").append.empty());
  CHECK(config_of("-kernel k -append [a,b]").append == "[a,b]");
  CHECK(config_of("-kernel k -append 'a \"b\" c=d'").append == "a \"b\" c=d");
  CHECK(config_of("-name a,,b=c").name == "a,b=c");
  CHECK(config_of("-kernel k -append \xff\x80").append == "\xff\x80");
}

TEST_CASE("command line: of an option given again the last counts, lists of keys merge", "[cli]") {
  CHECK(config_of("-m 64 -m 128").memory.size_bytes == 128 * kMiB);
  CHECK(config_of("-kernel a -kernel b").kernel == "b");
  CHECK(config_of("-machine pc -machine accel=qtest").accelerator == Accelerator::kQtest);
  CHECK(config_of("-machine accel=qtest -enable-kvm").accelerator == Accelerator::kKvm);
  CHECK(topology("-smp cores=4 -smp sockets=2") == "8/8 2*4*1");
  CHECK(config_of("-machine bogus -machine pc").machine == "pc");
}

TEST_CASE("-smp: what is not given is filled in, cores first", "[cli]") {
  CHECK(topology("") == "1/1 1*1*1");
  CHECK(topology("-smp 4") == "4/4 1*4*1");
  CHECK(topology("-smp 255") == "255/255 1*255*1");
  CHECK(topology("-smp 4,sockets=2") == "4/4 2*2*1");
  CHECK(topology("-smp 4,cores=2") == "4/4 2*2*1");
  CHECK(topology("-smp 8,threads=2") == "8/8 1*4*2");
  CHECK(topology("-smp 8,sockets=2,cores=2") == "8/8 2*2*2");
  CHECK(topology("-smp 2,maxcpus=8") == "2/8 1*8*1");
  CHECK(topology("-smp maxcpus=6,sockets=3") == "6/6 3*2*1");
  CHECK(topology("-smp sockets=2,cores=3,threads=2") == "12/12 2*3*2");
  CHECK(topology("-smp 2,sockets=1,dies=1,cores=2,threads=1") == "2/2 1*2*1");
}

TEST_CASE("-smp: zero, too many and inconsistent topologies are refused in QEMU's words", "[cli]") {
  check_messages({
      {"-smp 0", "-smp 0: Invalid CPU topology: CPU topology parameters must be greater than zero"},
      {"-smp 2,cores=0",
       "-smp 2,cores=0: Invalid CPU topology: CPU topology parameters must be greater than zero"},
      {"-smp 9999",
       "-smp 9999: Invalid SMP CPUs 9999. The max CPUs supported by machine 'pc' is 255"},
      {"-smp 256", "-smp 256: Invalid SMP CPUs 256. The max CPUs supported by machine 'pc' is 255"},
      {"-smp sockets=255,cores=255,threads=255",
       "-smp sockets=255,cores=255,threads=255: Invalid SMP CPUs 16581375. The max CPUs supported "
       "by machine 'pc' is 255"},
      {"-smp 18446744073709551615",
       "-smp 18446744073709551615: Invalid SMP CPUs 18446744073709551615. The max CPUs supported "
       "by machine 'pc' is 255"},
      {"-smp -1", "-smp -1: Parameter 'smp.cpus' expects integer, not '-1'"},
      {"-smp x", "-smp x: Parameter 'smp.cpus' expects integer, not 'x'"},
      {"-smp 4,bogus=3", "-smp 4,bogus=3: Parameter 'smp.bogus' is unexpected"},
      {"-smp 4,dies=2", "-smp 4,dies=2: dies not supported by this machine"},
      {"-smp 4,sockets=3",
       "-smp 4,sockets=3: Invalid CPU topology: product of the hierarchy must match maxcpus: "
       "sockets (3) * dies (1) * cores (1) * threads (1) != maxcpus (4)"},
      {"-smp 4,sockets=1,cores=2,threads=1",
       "-smp 4,sockets=1,cores=2,threads=1: Invalid CPU topology: product of the hierarchy must "
       "match maxcpus: sockets (1) * dies (1) * cores (2) * threads (1) != maxcpus (4)"},
      {"-smp 2,sockets=3",
       "-smp 2,sockets=3: Invalid CPU topology: product of the hierarchy must match maxcpus: "
       "sockets (3) * dies (1) * cores (0) * threads (1) != maxcpus (2)"},
      {"-smp 4,maxcpus=2",
       "-smp 4,maxcpus=2: Invalid CPU topology: maxcpus must be equal to or greater than smp: "
       "sockets (1) * dies (1) * cores (2) * threads (1) == maxcpus (2) < smp_cpus (4)"},
  });
}

TEST_CASE("-m and -object: sizes and backends are taken as said", "[cli]") {
  CHECK(config_of("-m 1.5G").memory.size_bytes == kGiB + kGiB / 2);
  CHECK(config_of("-m size=512").memory.size_bytes == 512 * kMiB);
  CHECK(config_of("-m 4K").memory.size_bytes == 4 * kKiB);
  CHECK(config_of("-m 64T").memory.size_bytes == 64 * kGiB * 1024);

  const auto file = config_of("-m 64 -mem-path /dev/hugepages -mem-prealloc").memory;
  CHECK(file.type == Memory::kFile);
  CHECK(file.path == "/dev/hugepages");
  CHECK(file.prealloc);

  const auto memfd = config_of(
                         "-object memory-backend-memfd,id=m,size=64M,hugetlb=on,"
                         "hugetlbsize=2M -machine memory-backend=m")
                         .memory;
  CHECK(memfd.type == Memory::kMemfd);
  CHECK(memfd.id == "m");
  CHECK(memfd.size_bytes == 64 * kMiB);
  CHECK(memfd.share);
  CHECK(memfd.hugetlb);
  CHECK(memfd.hugetlb_size_bytes == 2 * kMiB);
  CHECK_FALSE(memfd.prealloc);

  const auto backed = config_of(
                          "-m 64 -mem-prealloc -machine memory-backend=m "
                          "-object memory-backend-file,id=m,size=64M,mem-path=/f,share=on")
                          .memory;
  CHECK(backed.type == Memory::kFile);
  CHECK(backed.path == "/f");
  CHECK(backed.share);
  CHECK(backed.prealloc);
  CHECK_FALSE(config_of("-mem-prealloc -machine memory-backend=m "
                        "-object memory-backend-ram,id=m,size=64M,prealloc=off")
                  .memory.prealloc);
}

TEST_CASE("-m and -object: impossible and unused memory is refused", "[cli]") {
  check_messages({
      {"-m 0", "-m 0: Parameter 'size' must not be 0: no guest runs so"},
      {"-m bogus",
       "-m bogus: Parameter 'size' expects a non-negative number below 2^64 (optional suffix k, "
       "M, G, T, P or E)"},
      {"-m -5",
       "-m -5: Parameter 'size' expects a non-negative number below 2^64 (optional suffix k, M, "
       "G, T, P or E)"},
      {"-m 16E",
       "-m 16E: Parameter 'size' expects a non-negative number below 2^64 (optional suffix k, M, "
       "G, T, P or E)"},
      {"-m 5B", "-m 5B: Parameter 'size' must be a multiple of 4 KiB"},
      {"-m 65T", "-m 65T: Parameter 'size' must not be above 64 TiB"},
      {"-m 1G,slots=2", "-m 1G,slots=2: Parameter 'slots': memory can not be plugged in"},
      {"-m 1G,maxmem=2G", "-m 1G,maxmem=2G: Parameter 'maxmem': memory can not be plugged in"},
      {"-m size=1G,bogus=1", "-m size=1G,bogus=1: Invalid parameter 'bogus'"},
      {"-m 1G,size=2G", "-m 1G,size=2G: Parameter 'size' is given twice"},
      {"-object bogus,id=a",
       "-object bogus,id=a: Parameter 'qom-type' does not accept value 'bogus'"},
      {"-object memory-backend-ram,size=1G",
       "-object memory-backend-ram,size=1G: Parameter 'id' is missing"},
      {"-object memory-backend-ram,id=m",
       "-object memory-backend-ram,id=m: Parameter 'size' is missing"},
      {"-object memory-backend-ram,id=m,size=0",
       "-object memory-backend-ram,id=m,size=0: Parameter 'size' must not be 0: no guest runs so"},
      {"-object memory-backend-ram,id=m,size=1G,bogus=1",
       "-object memory-backend-ram,id=m,size=1G,bogus=1: Invalid parameter 'bogus'"},
      {"-object memory-backend-ram,id=m,size=1G,hugetlb=on",
       "-object memory-backend-ram,id=m,size=1G,hugetlb=on: Invalid parameter 'hugetlb'"},
      {"-object memory-backend-file,id=m,size=1G",
       "-object memory-backend-file,id=m,size=1G: Parameter 'mem-path' is missing"},
      {"-object memory-backend-memfd,id=m,size=1G,hugetlbsize=2M",
       "-object memory-backend-memfd,id=m,size=1G,hugetlbsize=2M: Parameter 'hugetlbsize' needs "
       "hugetlb=on"},
      {"-object memory-backend-memfd,id=m,size=1G,hugetlb=on,hugetlbsize=3M",
       "-object memory-backend-memfd,id=m,size=1G,hugetlb=on,hugetlbsize=3M: Parameter "
       "'hugetlbsize' expects a power of two above 4 KiB"},
      {"-object memory-backend-memfd,id=m,size=3M,hugetlb=on,hugetlbsize=2M",
       "-object memory-backend-memfd,id=m,size=3M,hugetlb=on,hugetlbsize=2M: Parameter 'size' "
       "must be a multiple of 'hugetlbsize'"},
      {"-object secret,id=s,data=x -object secret,id=s,data=x",
       "-object secret,id=s,data=x: Duplicate ID 's' for object"},
      {"-object memory-backend-ram,id=m,size=1G",
       "-object memory-backend-ram,id=m,size=1G: memory backend 'm' is not used (-machine "
       "memory-backend=m uses it)"},
      {"-machine memory-backend=zz", "-machine memory-backend=zz: Memory backend 'zz' not found"},
      {"-m 128M -object memory-backend-ram,id=m,size=64M -machine memory-backend=m",
       "-m 128M: Machine memory size does not match the size of the memory backend"},
      {"-mem-path / -object memory-backend-ram,id=m,size=64M -machine memory-backend=m",
       "-machine memory-backend=m: '-mem-path' can't be used together with '-machine "
       "memory-backend'"},
      {"-mem-path ''", "-mem-path: the argument is empty"},
  });
}

TEST_CASE("-kernel: -append and -initrd need it", "[cli]") {
  check_messages({
      {"-append x", "-append x: -append only allowed with -kernel option"},
      {"-initrd x", "-initrd x: -initrd only allowed with -kernel option"},
      {"-kernel ''", "-kernel: the argument is empty"},
  });
}

TEST_CASE("-name, -uuid, -d: identity is checked", "[cli]") {
  CHECK(config_of("-name plain").name == "plain");
  check_messages({
      {"-uuid bogus", "-uuid bogus: failed to parse UUID string: wrong format"},
      {"-uuid d15e375d-5b0e-4fb6-bed6-cd44843cd26g",
       "-uuid d15e375d-5b0e-4fb6-bed6-cd44843cd26g: failed to parse UUID string: wrong format"},
      {"-uuid d15e375d-5b0e-4fb6-bed6-cd44843cd2670",
       "-uuid d15e375d-5b0e-4fb6-bed6-cd44843cd2670: failed to parse UUID string: wrong format"},
      {"-name a,bogus=1", "-name a,bogus=1: Invalid parameter 'bogus'"},
      {"-name a,debug-threads=x",
       "-name a,debug-threads=x: Parameter 'debug-threads' expects 'on' or 'off'"},
  });
}

TEST_CASE("apply_logging: a bad -d or -D is named", "[cli]") {
  VmConfig config;
  CHECK(apply_logging(config).has_value());
  config.log_spec = "bogus=trace";
  CHECK(apply_logging(config).error().message() ==
        "-d bogus=trace: 'bogus' is not a log folder (util, memory, block, devices, migration, "
        "vmm, all)");
  config.log_spec.reset();
  config.log_file = "/dev/null/log";
  CHECK(apply_logging(config).error().message() ==
        "-D /dev/null/log: cannot open the log file: Not a directory");
}

TEST_CASE("command line: -incoming takes an address, or defers it", "[cli]") {
  for (const char* uri :
       {"defer", "tcp:127.0.0.1:4444", "tcp::0", "unix:/x", "fd:5", "file:/x,offset=4096"}) {
    CHECK(config_of(fmt::format("-accel qtest -incoming {}", uri)).incoming == uri);
  }
  check_messages(
      {{"-incoming pigeon:x", "-incoming pigeon:x: unknown migration protocol: pigeon:x"},
       {"-incoming tcp:host", "-incoming tcp:host: error parsing address 'host'"},
       {"-incoming ''", "-incoming: unknown migration protocol: "}});
}

TEST_CASE("command line: harmless requests are accepted, others of the same kind refused",
          "[cli]") {
  config_of(
      "-overcommit mem-lock=off,cpu-pm=off -rtc base=utc,clock=host,driftfix=none "
      "-boot strict=on,menu=off -msg timestamp=yes -sandbox off -display none -audio none "
      "-audiodev none,id=a -vga none -net none -nic none -parallel none -monitor none "
      "-no-user-config -no-hpet -no-fd-bootchk -global kvm-pit.lost_tick_policy=delay "
      "-global PIIX4_PM.disable_s4=1");
  check_messages({
      {"-overcommit mem-lock=on",
       "-overcommit mem-lock=on: Parameter 'mem-lock' does not accept value 'on', only 'off'"},
      {"-rtc base=localtime",
       "-rtc base=localtime: Parameter 'base' does not accept value 'localtime', only 'utc'"},
      {"-rtc bogus", "-rtc bogus: Expected '=' after parameter 'bogus'"},
      {"-boot order=c", "-boot order=c: Invalid parameter 'order'"},
      {"-msg timestamp=maybe",
       "-msg timestamp=maybe: Parameter 'timestamp' does not accept value 'maybe', only 'on|off'"},
      {"-sandbox on,obsolete=deny",
       "-sandbox on,obsolete=deny: Parameter 'enable' does not accept value 'on', only 'off'"},
      {"-display gtk", "-display gtk: Parameter 'type' does not accept value 'gtk', only 'none'"},
      {"-audio pa", "-audio pa: Parameter 'driver' does not accept value 'pa', only 'none'"},
      {"-global x", "-global x: expected DRIVER.PROPERTY=VALUE"},
      {"-global virtio-blk-pci.packed=on",
       "-global virtio-blk-pci.packed=on: there is no such device property to set"},
      {"-no-acpi",
       "-no-acpi: not supported: the machine has no other way to find its devices and to power "
       "off"},
      {"-usb", "-usb: not supported: there is no USB controller"},
      {"-hda x",
       "-hda x: not supported: there is no IDE controller: -drive file=FILE,format=raw is a virtio "
       "disk"},
      {"-cdrom x",
       "-cdrom x: not supported: there is no IDE controller: use -drive file=FILE,media=cdrom"},
      {"-netdev user,id=n", "-netdev user,id=n: not supported: there are no network devices"},
      {"-vnc :0", "-vnc :0: not supported: there is no display"},
      {"-bios b", "-bios b: not supported: guests are booted by -kernel, without firmware"},
      {"-monitor bogus", "-monitor bogus: 'bogus' is not a valid char driver"},
      {"-device bogus", "-device bogus: 'bogus' is not a valid device model name"},
      {"-device id=x", "-device id=x: Parameter 'driver' is missing"},
      {"-device {x", "-device {x: JSON parse error at byte 2"},
  });
}

TEST_CASE("command line: help and version texts end the parse with success", "[cli]") {
  for (const char* line : {"-h", "-help", "--help", "-S -help -kernel k"}) {
    INFO(line);
    CHECK_THAT(printed_by(line), Catch::StartsWith("usage: rhea [options]\n"));
  }
  CHECK_THAT(printed_by("-version -m 0"), Catch::StartsWith("Rhea version "));
  CHECK_THAT(printed_by("-version"), Catch::Contains("Apache License, Version 2.0"));
  CHECK(printed_by("-accel x,y -version") == "-accel x,y: Expected '=' after parameter 'y'");
  CHECK_THAT(printed_by("-machine help"), Catch::Contains("\npc-i440fx-7.2 "));
  CHECK_THAT(printed_by("-device help"),
             Catch::StartsWith("Devices:\nname \"isa-serial\", bus ISA\n"));
  CHECK(printed_by("-accel ?") == "Accelerators supported by Rhea:\nkvm\nqtest\n");
  CHECK_THAT(printed_by("-cpu help"), Catch::Contains("x86 host"));
  CHECK_THAT(printed_by("-d help"), Catch::Contains("migration"));
  CHECK(printed_by("-chardev help") ==
        "Available chardev backend types:\n  null\n  stdio\n  file\n  pty\n  socket\n");
}

TEST_CASE("-help: every option that is not an alias or without effect is listed", "[cli]") {
  const std::string help = printed_by("-help");
  for (const char* name : {"-machine ",
                           "-accel ",
                           "-enable-kvm\n",
                           "-cpu ",
                           "-smp ",
                           "-m ",
                           "-mem-path ",
                           "-mem-prealloc\n",
                           "-object ",
                           "-name ",
                           "-uuid ",
                           "-kernel ",
                           "-initrd ",
                           "-append ",
                           "-blockdev ",
                           "-drive ",
                           "-device ",
                           "-chardev ",
                           "-serial ",
                           "-debugcon ",
                           "-nographic\n",
                           "-display ",
                           "-nodefaults\n",
                           "-qmp ",
                           "-mon ",
                           "-monitor ",
                           "-qtest ",
                           "-qtest-log ",
                           "-S\n",
                           "-no-reboot\n",
                           "-no-shutdown\n",
                           "-daemonize\n",
                           "-pidfile ",
                           "-d ",
                           "-D ",
                           "-version\n",
                           "-help\n"}) {
    INFO(name);
    CHECK(help.find(fmt::format("\n{}", name)) != help.npos);
  }
}
