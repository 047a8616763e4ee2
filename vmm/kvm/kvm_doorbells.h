// KvmDoorbells: writes that KVM turns into an eventfd signal without leaving the kernel.
#pragma once

#include "memory/listener.h"
#include "util/bql.h"

namespace rhea::vmm {

/// Registers each doorbell of an address space with KVM_IOEVENTFD.
/// Thread: BQL.
/// Errors: a doorbell that KVM refuses stays a plain exit to user space, where the address space
/// signals the same eventfd: slower, not wrong. It is logged.
class KvmDoorbells final : public memory::MemoryListener {
 public:
  enum class Space : uint8_t { kMemory, kIo };
  KvmDoorbells(int vm_fd, Space space) : vm_fd_(vm_fd), space_(space) {}

  void doorbell_add(const memory::Section& section,
                    const memory::MemoryRegion::Doorbell& doorbell) override;
  void doorbell_del(const memory::Section& section,
                    const memory::MemoryRegion::Doorbell& doorbell) override;

 private:
  enum class Action : uint8_t { kAssign, kDeassign };
  void apply(const memory::Section& section, const memory::MemoryRegion::Doorbell& doorbell,
             Action action);

  const int vm_fd_;
  const Space space_;
};

}  // namespace rhea::vmm
