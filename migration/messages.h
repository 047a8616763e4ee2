// What the frames of the main connection say, apart from the manifest and the devices.
#pragma once

#include <cstdint>

namespace rhea::migration {

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
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("pass", s.pass);
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
