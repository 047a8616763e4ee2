// Saved vCPUs that KVM would refuse when half of them is set: refused before, by name.
#include "vmm/kvm/vcpu_check.h"

#include <catch2/catch.hpp>
#include <functional>
#include <string>

using namespace rhea::vmm;

namespace {

constexpr size_t kXstateBv = 512;

VcpuLimits host() {
  return {.cpuid = {},
          .tsc_khz = 2'000'000,
          .has_xcrs = true,
          .most_xsave_bytes = 8192,
          .xfeatures = 0x7,  // x87, SSE, AVX
          .msrs = {0x10}};
}

VcpuState vcpu() {
  VcpuState state;
  state.tsc_khz = 2'000'000;
  state.xsave.resize(kLeastXsaveBytes);
  state.xcrs = {{.index = 0, .value = 7}};
  return state;
}

std::string refusal(const VcpuLimits& limits, const VcpuState& state) {
  const auto checked = check_vcpu(limits, state);
  return checked ? "" : checked.error().message();
}

}  // namespace

TEST_CASE("check_vcpu: an XSAVE area that no processor stores is refused", "[vcpu-check]") {
  struct Row {
    std::function<void(VcpuState&)> spoil;
    std::string message;
  };
  REQUIRE(refusal(host(), vcpu()).empty());
  for (const Row& row : {
           Row{[](auto& s) { s.xsave[kXstateBv] = 0x0f; }, "xsave: XSTATE_BV 0xf is not possible"},
           Row{[](auto& s) { s.xsave[kXstateBv + 7] = 0x80; },
               "xsave: XSTATE_BV 0x8000000000000000 is not possible"},
           Row{[](auto& s) { s.xsave[kXstateBv + 15] = 0x80; },
               "xsave: XCOMP_BV 0x8000000000000000 is not possible"},
           Row{[](auto& s) { s.xsave[kXstateBv + 16] = 1; },
               "xsave: a reserved byte of the header 0x1 is not possible"},
           Row{[](auto& s) { s.xsave[kXstateBv + 63] = 2; },
               "xsave: a reserved byte of the header 0x2 is not possible"},
           Row{[](auto& s) { s.xsave[26] = 1; }, "xsave: MXCSR 0x10000 is not possible"},
           Row{[](auto& s) { s.xsave.resize(kLeastXsaveBytes - 1); },
               "xsave is of 4095 bytes, this host takes 4096 to 8192"},
           Row{[](auto& s) { s.xsave.resize(8193); },
               "xsave is of 8193 bytes, this host takes 4096 to 8192"},
           Row{[](auto& s) { s.xcrs = {{.index = 0, .value = 0xf}}; },
               "xcrs: XCR0 0xf is not possible"},
           Row{[](auto& s) { s.xcrs = {{.index = 0, .value = 6}}; },
               "xcrs: XCR0 0x6 is not possible"},
       }) {
    VcpuState state = vcpu();
    row.spoil(state);
    CHECK(refusal(host(), state) == row.message);
  }
}

TEST_CASE("check_vcpu: AVX state that XCR0 has switched off since is taken", "[vcpu-check]") {
  VcpuState state = vcpu();
  state.xsave.resize(8192);
  state.xsave[kXstateBv] = 7;
  state.xcrs.front().value = 3;
  CHECK(refusal(host(), state).empty());
}

TEST_CASE("check_vcpu: another TSC frequency is taken where it can be scaled, or hardly differs",
          "[vcpu-check]") {
  VcpuLimits limits = host();
  VcpuState state = vcpu();
  state.tsc_khz = 2'000'500;  // 250 ppm
  CHECK(refusal(limits, state).empty());
  state.tsc_khz = 2'000'501;
  CHECK(refusal(limits, state).starts_with("tsc_khz: "));
  limits.scales_tsc = true;
  CHECK(refusal(limits, state).empty());
  limits.scales_tsc = false;
  limits.tsc_khz = 0;
  CHECK(refusal(limits, state).empty());
}

TEST_CASE("describe_cpuid: a line is equal where a guest sees the same, and says what it does not",
          "[vcpu-check]") {
  using Leaves = std::vector<kvm_cpuid_entry2>;
  const auto leaf = [](uint32_t function, uint32_t eax, uint32_t ecx) {
    kvm_cpuid_entry2 entry{};
    entry.function = function;
    entry.eax = eax;
    entry.ecx = ecx;
    return entry;
  };
  const auto describe = [](const std::vector<Leaves>& vcpus) { return describe_cpuid(vcpus); };
  const Leaves first{leaf(1, 0xa20f10, 0x10), leaf(0x40000000, 1, 2)};
  const std::string line = describe({first, first});
  CHECK(line.starts_with("cpuid.1.eax=a20f10 cpuid.1.ecx=10 cpuid.1.edx=0 cpuid.7.ebx=0 "));
  CHECK(line.size() < 220);
  CHECK(describe({{first[1], leaf(5, 0, 0), first[0]}, first}) == line);
  CHECK(describe({{leaf(1, 0xa20f10, 0x18), first[1]}, first}).find(" cpuid.1.ecx=18 ") !=
        std::string::npos);
  const std::string other = describe({first, {leaf(1, 0xa20f10, 0x18), first[1]}});
  CHECK(other != line);
  CHECK(other.substr(0, other.rfind(' ')) == line.substr(0, line.rfind(' ')));
  CHECK(describe({first}) != line);
}
