// What the frames of the main connection say, apart from pages and devices.
#pragma once

#include <cstdint>

#include "migration/manifest.h"

namespace rhea::migration {

/// kHello: what is to be moved, and how.
struct Hello {
  Manifest machine;
  uint32_t channels = 0;       ///< that carry the pages, beside this connection; 0: this one does
  uint64_t session = 0;        ///< what each of them says first
  bool validate_uuid = false;  ///< the source wants the UUIDs compared
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("machine", s.machine);
    v.field("channels", s.channels);
    v.field("session", s.session);
    v.field("validate-uuid", s.validate_uuid);
  }
};

/// kWelcome: the destination takes this machine.
struct Welcome {
  uint32_t stream_version = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("stream-version", s.stream_version);
  }
};

/// kSync: all pages of this pass are sent.
struct Sync {
  uint64_t pass = 0;
  uint64_t channel_sync = 0;  ///< the number of the sync that stands at this place in each channel
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("pass", s.pass);
    v.field("channel-sync", s.channel_sync);
  }
};

/// kEnd: nothing is missing.
struct End {
  bool runs = false;   ///< the machine is to run; else it arrives paused
  uint64_t pages = 0;  ///< that were sent, each as often as it was
  uint32_t devices = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("runs", s.runs);
    v.field("pages", s.pages);
    v.field("devices", s.devices);
  }
};

}  // namespace rhea::migration
