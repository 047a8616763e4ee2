// What of a SCSI bus and its units travels with their guest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rhea::devices {

/// Of a unit: the medium itself is the block node that the other side gives it.
struct ScsiUnitState {
  bool write_cache = true;
  bool has_medium = true;
  bool tray_open = false;
  bool tray_locked = false;
  bool eject_requested = false;
  uint8_t medium_event = 0;  // what GET EVENT STATUS NOTIFICATION tells next
  friend bool operator==(const ScsiUnitState&, const ScsiUnitState&) = default;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("write_cache", s.write_cache);
    v.field("has_medium", s.has_medium);
    v.field("tray_open", s.tray_open);
    v.field("tray_locked", s.tray_locked);
    v.field("eject_requested", s.eject_requested);
    v.field("medium_event", s.medium_event);
  }
};

/// Of a unit's place on the bus.
struct ScsiSlotState {
  static constexpr size_t kMaxAttentions = 32;
  struct Attention {
    uint8_t asc = 0;
    uint8_t ascq = 0;
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("asc", s.asc);
      v.field("ascq", s.ascq);
    }
  };

  uint8_t channel = 0;
  uint8_t target = 0;
  uint16_t lun = 0;
  std::vector<Attention> attentions;  // in the order of telling
  ScsiUnitState unit;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("channel", s.channel);
    v.field("target", s.target);
    v.field("lun", s.lun);
    v.field("attentions", s.attentions, kMaxAttentions);
    v.field("unit", s.unit);
  }
};

struct ScsiBusState {
  static constexpr size_t kMaxUnits = 65'536;
  /// One whose initiator has asked for its LUNs, and so hears when they change.
  struct Target {
    uint8_t channel = 0;
    uint8_t target = 0;
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("channel", s.channel);
      v.field("target", s.target);
    }
  };

  std::vector<ScsiSlotState> units;  // by address
  std::vector<Target> luns_read;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("units", s.units, kMaxUnits);
    v.field("luns_read", s.luns_read, kMaxUnits);
  }
};

}  // namespace rhea::devices
