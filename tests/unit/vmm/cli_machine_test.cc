// -machine, -accel and -cpu.
#include <catch2/catch.hpp>

#include "tests/unit/vmm/cli_support.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::test;

TEST_CASE("-machine, -accel, -cpu: what exists is taken", "[cli]") {
  CHECK(config_of("-machine pc-i440fx-7.2").machine == "pc");
  CHECK(config_of("-machine type=pc,usb=off,dump-guest-core=off,vmport=off,graphics=off").machine ==
        "pc");
  CHECK(config_of("-machine accel=kvm:tcg").accelerator == Accelerator::kKvm);
  CHECK(config_of("-machine accel=tcg:qtest").accelerator == Accelerator::kQtest);
  CHECK(config_of("-accel tcg -accel qtest").accelerator == Accelerator::kQtest);
  CHECK(config_of("-accel qtest").accelerator == Accelerator::kQtest);
  CHECK(config_of("-cpu host").machine == "pc");
  CHECK(config_of("-accel kvm").dirty_ring_entries == 0);
  CHECK(config_of("-accel kvm,dirty-ring-size=0").dirty_ring_entries == 0);
  CHECK(config_of("-accel kvm,dirty-ring-size=4096").dirty_ring_entries == 4096);
  CHECK(config_of("-accel kvm,dirty-ring-size=65536").dirty_ring_entries == 65536);
  // The first that can be had is taken, with what it was given.
  CHECK(config_of("-accel kvm,dirty-ring-size=4096 -accel kvm").dirty_ring_entries == 4096);
}

TEST_CASE("-machine, -accel, -cpu: what does not exist is refused", "[cli]") {
  check_messages({
      {"-machine bogus",
       "-machine bogus: unsupported machine type 'bogus' (use -machine help to list supported "
       "machines)"},
      {"-M q35",
       "-M q35: unsupported machine type 'q35': only 'pc' is built (use -machine help to list "
       "supported machines)"},
      {"-machine microvm",
       "-machine microvm: unsupported machine type 'microvm': only 'pc' is built (use -machine "
       "help to list supported machines)"},
      {"-machine none,accel=kvm:tcg",
       "-machine none,accel=kvm:tcg: unsupported machine type 'none': only 'pc' is built (use "
       "-machine help to list supported machines)"},
      {"-machine pc,accel=bogus", "-machine pc,accel=bogus: invalid accelerator bogus"},
      {"-machine pc,accel=", "-machine pc,accel=: invalid accelerator "},
      {"-machine pc,accel=tcg",
       "-machine pc,accel=tcg: invalid accelerator tcg: Rhea does not emulate CPUs, guests need "
       "kvm"},
      {"-accel bogus", "-accel bogus: invalid accelerator bogus"},
      {"-accel tcg:bogus",
       "-accel tcg:bogus: invalid accelerator tcg: Rhea does not emulate CPUs, guests need kvm"},
      {"-accel kvm,bogus=1", "-accel kvm,bogus=1: Property 'kvm-accel.bogus' not found"},
      {"-accel kvm,dirty-ring-size=1000",
       "-accel kvm,dirty-ring-size=1000: dirty-ring-size must be a power of two"},
      {"-accel kvm,dirty-ring-size=131072",
       "-accel kvm,dirty-ring-size=131072: Parameter 'dirty-ring-size' expects a value between 0 "
       "and 65536"},
      {"-accel kvm,dirty-ring-size=4k",
       "-accel kvm,dirty-ring-size=4k: Parameter 'dirty-ring-size' expects integer, not '4k'"},
      {"-accel qtest,dirty-ring-size=4096",
       "-accel qtest,dirty-ring-size=4096: Property 'qtest-accel.dirty-ring-size' not found"},
      {"-accel kvm -machine pc,accel=kvm",
       "-machine pc,accel=kvm: The -accel and \"-machine accel=\" options are incompatible"},
      {"-machine pc,bogus=1", "-machine pc,bogus=1: Property 'pc-machine.bogus' not found"},
      {"-machine pc,accel", "-machine pc,accel: Expected '=' after parameter 'accel'"},
      {"-machine pc,usb=maybe", "-machine pc,usb=maybe: Parameter 'usb' expects 'on' or 'off'"},
      {"-machine pc,usb=on",
       "-machine pc,usb=on: 'usb' can only be off: there is no USB controller"},
      {"-machine pc,accel=kvm,accel=kvm",
       "-machine pc,accel=kvm,accel=kvm: Parameter 'accel' is given twice"},
      {"-cpu bogus", "-cpu bogus: unable to find CPU model 'bogus': only 'host' exists"},
      {"-cpu qemu64,+avx",
       "-cpu qemu64,+avx: unable to find CPU model 'qemu64': only 'host' "
       "exists"},
      {"-cpu host,migratable=off", "-cpu host,migratable=off: 'migratable' can only be on"},
      {"-cpu host,bogus=on", "-cpu host,bogus=on: Property 'host-x86_64-cpu.bogus' not found"},
      {"-cpu host,+avx", "-cpu host,+avx: Expected '=' after parameter '+avx'"},
  });
}
