#include "devices/scsi/scsi_mmc.h"

#include <algorithm>
#include <array>
#include <utility>

namespace rhea::devices::mmc {
namespace {

constexpr uint64_t kFrames = 75, kSeconds = 60;
constexpr uint64_t kLeadIn = 150;  // frames before block 0
constexpr uint64_t kMostFrames = 100 * kSeconds * kFrames;

constexpr uint8_t kDataTrack = 0x14;  // ADR 1, CONTROL 4
constexpr uint8_t kLeadOut = 0xaa;
constexpr uint8_t kFirstTrackPoint = 0xa0, kLastTrackPoint = 0xa1, kLeadOutPoint = 0xa2;

enum class TocFormat : uint8_t { kToc = 0, kSessions = 1, kRaw = 2 };

constexpr uint16_t kCdProfile = 0x0008, kDvdProfile = 0x0010;
constexpr uint8_t kTrayMechanism = 0x20, kCanEject = 0x08, kCanLock = 0x01, kIsLocked = 0x02;
constexpr uint8_t kMediaSupported = 1 << kMediaClass;

/// Minutes, seconds, frames. What is too far away for them is told as their end.
void put_msf(ScsiReply& reply, uint64_t lba) {
  const uint64_t frames = std::min(lba + kLeadIn, 256 * kSeconds * kFrames - 1);
  reply.put8(frames / kFrames / kSeconds);
  reply.put8(frames / kFrames % kSeconds);
  reply.put8(frames % kFrames);
}

void put_address(ScsiReply& reply, uint64_t lba, bool in_msf) {
  if (!in_msf) return reply.put32(std::min<uint64_t>(lba, UINT32_MAX));
  reply.put8(0);
  put_msf(reply, lba);
}

void put_track(ScsiReply& reply, uint8_t track, uint64_t lba, bool in_msf) {
  reply.put8(0);
  reply.put8(kDataTrack);
  reply.put8(track);
  reply.put8(0);
  put_address(reply, lba, in_msf);
}

void put_raw(ScsiReply& reply, uint8_t point) {
  reply.put8(1);
  reply.put8(kDataTrack);
  reply.put8(0);
  reply.put8(point);
  reply.put_zeros(4);
}

void put_raw_toc(ScsiReply& reply, uint64_t blocks) {
  for (const uint8_t point : {kFirstTrackPoint, kLastTrackPoint}) {
    put_raw(reply, point);
    reply.put24(0x01'0000);  // track 1
  }
  put_raw(reply, kLeadOutPoint);
  put_msf(reply, blocks);
  put_raw(reply, 1);
  put_msf(reply, 0);
}

/// [MMC-6 5]
struct Feature {
  uint16_t code;
  uint8_t version;
  bool persistent;
  bool (*current)(Medium medium);
  void (*put)(Medium medium, ScsiReply& reply);
};

bool always(Medium) { return true; }

void put_profiles(Medium medium, ScsiReply& reply) {
  for (const auto& [profile, its] :
       {std::pair(kDvdProfile, Medium::kDvd), std::pair(kCdProfile, Medium::kCd)}) {
    reply.put16(profile);
    reply.put8(its == medium ? 1 : 0);
    reply.put8(0);
  }
}

void put_core(Medium, ScsiReply& reply) {
  reply.put32(1);  // the SCSI family
  reply.put_zeros(4);
}

void put_removable(Medium, ScsiReply& reply) {
  reply.put8(kTrayMechanism | kCanEject | kCanLock);
  reply.put_zeros(3);
}

void put_random_readable(Medium, ScsiReply& reply) {
  reply.put32(kBlockSize);
  reply.put16(1);
  reply.put_zeros(2);
}

void put_nothing_special(Medium, ScsiReply& reply) { reply.put_zeros(4); }

constexpr std::array kFeatures{
    Feature{0x0000, 0, true, always, put_profiles},
    Feature{0x0001, 2, true, always, put_core},
    Feature{0x0003, 1, true, always, put_removable},
    Feature{0x0010, 0, false, [](Medium m) { return m != Medium::kNone; }, put_random_readable},
    Feature{0x001e, 2, false, [](Medium m) { return m == Medium::kCd; }, put_nothing_special},
    Feature{0x001f, 1, false, [](Medium m) { return m == Medium::kDvd; }, put_nothing_special},
};

}  // namespace

Medium medium_of(uint64_t blocks) {
  return blocks + kLeadIn <= kMostFrames ? Medium::kCd : Medium::kDvd;
}

std::optional<ScsiSense> put_toc(const TocRequest& request, uint64_t blocks, ScsiReply& reply) {
  reply.put16(0);
  reply.put16(0x0101);  // tracks, or sessions, from 1 to 1
  switch (static_cast<TocFormat>(request.format)) {
    case TocFormat::kToc:
      if (request.start > 1 && request.start != kLeadOut) return sense::kInvalidField;
      if (request.start <= 1) put_track(reply, 1, 0, request.in_msf);
      put_track(reply, kLeadOut, blocks, request.in_msf);
      break;
    case TocFormat::kSessions:
      put_track(reply, 1, 0, request.in_msf);
      break;
    case TocFormat::kRaw:
      if (request.start > 1) return sense::kInvalidField;
      put_raw_toc(reply, blocks);
      break;
    default:
      return sense::kInvalidField;
  }
  reply.set16(0, reply.size() - 2);
  return std::nullopt;
}

void put_configuration(Features which, uint16_t from, Medium medium, ScsiReply& reply) {
  constexpr std::array<uint16_t, 3> kProfiles{0, kCdProfile, kDvdProfile};
  reply.put32(0);
  reply.put16(0);
  reply.put16(kProfiles[std::to_underlying(medium)]);
  for (const Feature& feature : kFeatures) {
    const bool current = feature.current(medium);
    if (feature.code < from) continue;
    if (which == Features::kOne && feature.code != from) continue;
    if (which == Features::kCurrent && !current) continue;
    reply.put16(feature.code);
    reply.put8(static_cast<unsigned>(feature.version << 2) | (feature.persistent ? 2 : 0) |
               (current ? 1 : 0));
    const size_t length_at = reply.size();
    reply.put8(0);
    feature.put(medium, reply);
    reply.set8(length_at, reply.size() - length_at - 1);
  }
  reply.set32(0, reply.size() - 4);
}

void put_disc_information(ScsiReply& reply) {
  constexpr uint8_t kFinished = 0x0e;  // the disc, and its last session
  constexpr uint8_t kUnrestricted = 0x20;
  reply.put16(32);
  reply.put8(kFinished);
  reply.put32(0x01010101);  // first track, sessions, first and last track of the last session
  reply.put8(kUnrestricted);
  reply.put_zeros(26);
}

void put_media_event(ScsiTray::Event event, const ScsiTray& tray, ScsiReply& reply) {
  constexpr uint8_t kOpen = 0x01, kPresent = 0x02;
  const ScsiTray::Readiness readiness = tray.readiness();
  reply.put16(6);
  reply.put8(kMediaClass);
  reply.put8(kMediaSupported);
  reply.put8(std::to_underlying(event));
  reply.put8((readiness == ScsiTray::Readiness::kOpen ? kOpen : 0) |
             (readiness == ScsiTray::Readiness::kReady ? kPresent : 0));
  reply.put_zeros(2);
}

void put_no_event(ScsiReply& reply) {
  constexpr uint8_t kNoEventAvailable = 0x80;
  reply.put16(2);
  reply.put8(kNoEventAvailable);
  reply.put8(kMediaSupported);
}

void put_mechanism_status(const ScsiTray& tray, ScsiReply& reply) {
  constexpr uint8_t kDoorOpen = 0x10;
  reply.put8(0);
  reply.put8(tray.position() == ScsiTrayPosition::kOpen ? kDoorOpen : 0);
  reply.put_zeros(3);
  reply.put8(1);  // a place for one disc, and no table of them
  reply.put16(0);
}

void put_capabilities(bool locked, std::span<uint8_t> page) {
  constexpr uint8_t kReads = 0x3b;  // CD-R, CD-RW, DVD-ROM, DVD-R, DVD-RAM
  constexpr uint8_t kReadsMode2 = 0x30;
  constexpr uint16_t kSpeed = 50 * 176, kBuffer = 512;  // of 1000 bytes a second; of 1024 bytes
  const auto put16 = [page](size_t at, uint16_t value) {
    page[at] = static_cast<uint8_t>(value >> 8);
    page[at + 1] = static_cast<uint8_t>(value & 0xff);
  };
  page[2] = kReads;
  page[4] = kReadsMode2;
  page[6] = kTrayMechanism | kCanEject | kCanLock | (locked ? kIsLocked : 0);
  put16(8, kSpeed);
  put16(12, kBuffer);
  put16(14, kSpeed);
}

}  // namespace rhea::devices::mmc
