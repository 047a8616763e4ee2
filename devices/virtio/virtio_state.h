// What of a virtio device travels with its guest.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/msix.h"
#include "devices/pci_device.h"
#include "devices/virtio/virtio_spec.h"
#include "util/saved_state.h"

namespace rhea::devices {

struct VirtioQueueState {
  struct Head {
    uint16_t head = 0;
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("head", s.head);
    }
  };

  uint16_t size = 0;
  uint64_t descriptors = 0;
  uint64_t available = 0;
  uint64_t used = 0;
  bool enabled = false;
  bool broken = false;          // the driver broke it, or it could not run at all
  uint16_t next_available = 0;  // the next entry of the available ring that the device takes
  std::vector<Head> again;      // taken, and to be carried out once more: they wait for the machine
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("size", s.size);
    v.field("descriptors", s.descriptors);
    v.field("available", s.available);
    v.field("used", s.used);
    v.field("enabled", s.enabled);
    v.field("broken", s.broken);
    v.field("next_available", s.next_available);
    v.field("again", s.again, kMaxQueueSize);
  }
};

struct VirtioDeviceState {
  static constexpr size_t kMaxQueues = 2048;
  uint8_t status = 0;
  uint64_t driver_features = 0;
  uint8_t config_generation = 0;
  std::vector<VirtioQueueState> queues;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("status", s.status);
    v.field("driver_features", s.driver_features);
    v.field("config_generation", s.config_generation);
    v.field("queues", s.queues, kMaxQueues);
  }
};

/// The function.
struct VirtioPciState {
  struct Vector {
    uint16_t vector = kNoVector;
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("vector", s.vector);
    }
  };

  PciDeviceState pci;
  MsixState msix;
  uint32_t device_feature_select = 0;
  uint32_t driver_feature_select = 0;
  uint16_t queue_select = 0;
  uint16_t config_vector = kNoVector;
  std::vector<Vector> queue_vectors;
  uint8_t isr = 0;
  bool withheld = false;
  VirtioDeviceState virtio;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("pci", s.pci);
    v.field("msix", s.msix);
    v.field("device_feature_select", s.device_feature_select);
    v.field("driver_feature_select", s.driver_feature_select);
    v.field("queue_select", s.queue_select);
    v.field("config_vector", s.config_vector);
    v.field("queue_vectors", s.queue_vectors, VirtioDeviceState::kMaxQueues);
    v.field("isr", s.isr);
    v.field("withheld", s.withheld);
    v.field("virtio", s.virtio);
  }
};

/// The whole, with the device's own part.
template <class Own>
struct VirtioWholeState {
  static constexpr std::string_view kKind = Own::kKind;
  static constexpr uint32_t kVersion = Own::kVersion;
  VirtioPciState function;
  Own device;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("function", s.function);
    v.field("device", s.device);
  }
};

/// What was in the bytes: the transport's part, and how to take over the device's own, behind the
/// driver's.
struct VirtioLoaded {
  VirtioPciState function;
  std::move_only_function<void()> set_own;
};

}  // namespace rhea::devices
