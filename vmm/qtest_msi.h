// QtestMsi: message-signalled interrupts when no vCPU runs: the stores that they are.
#pragma once

#include <memory>

#include "devices/msi.h"
#include "memory/address_space.h"
#include "util/aio_context.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::vmm {

/// A client lets a vector's message point at RAM and sees the data appear there, as QEMU's do.
///
/// Thread: main, BQL; see MsiRouter. The stores are done in `context`, main's service context,
/// because they may reach a device and change it.
class QtestMsi final : public devices::MsiRouter {
 public:
  explicit QtestMsi(AioContext& context) : context_(context) {}
  /// Before the first vector is connected.
  void attach(memory::AddressSpace& memory) REQUIRES(bql) { memory_ = &memory; }
  Result<std::unique_ptr<devices::MsiVector>> add_vector() override REQUIRES(bql);

 private:
  class Vector;

  AioContext& context_;
  memory::AddressSpace* memory_ GUARDED_BY(bql) = nullptr;
};

}  // namespace rhea::vmm
