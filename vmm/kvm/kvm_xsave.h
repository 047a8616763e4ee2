// A vCPU's x87, SSE and extended registers: an XSAVE area in the standard (not compacted) form.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "util/error.h"
#include "vmm/kvm/kvm_vm.h"

namespace rhea::vmm {

/// Of any host: what KVM_GET_XSAVE gives.
inline constexpr size_t kLeastXsaveBytes = 4096;
inline constexpr size_t kXsaveHeader = 512;  ///< where XSTATE_BV is [SDM vol. 1, 13.4]
inline constexpr uint64_t kX87AndSse = 3;    ///< in the legacy part, on any processor

/// Of an area on this host.
size_t xsave_bytes(const KvmVm& vm);

// Errors: KVM refuses.
Result<std::vector<uint8_t>> read_xsave(const KvmVm& vm, int vcpu_fd);
/// An area that is shorter than this host's has nothing in use behind its end.
Result<void> write_xsave(const KvmVm& vm, int vcpu_fd, std::span<const uint8_t> area);

}  // namespace rhea::vmm
