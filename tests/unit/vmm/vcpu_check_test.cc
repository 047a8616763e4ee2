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
