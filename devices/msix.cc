#include "devices/msix.h"

#include <bit>

#include "util/check.h"
#include "util/log.h"

namespace rhea::devices {
namespace {

constexpr uint64_t kEntryBytes = 16;
constexpr uint32_t kVectorMasked = 1;
constexpr uint16_t kEnable = 1 << 15;
constexpr uint16_t kFunctionMask = 1 << 14;
constexpr uint64_t kPage = 4096;

/// Offsets within an entry. [PCI-3.0 6.8.2.6 to 6.8.2.9]
enum class EntryReg : uint8_t { kAddressLow = 0, kAddressHigh = 4, kData = 8, kControl = 12 };

/// The pending bits start on a page of their own, so that a guest may map the table alone.
uint64_t pending_offset(unsigned vectors) {
  return (vectors * kEntryBytes + kPage - 1) / kPage * kPage;
}

}  // namespace

Msix::Msix(unsigned vectors, GuestErrors& errors)
    : errors_(errors),
      pending_offset_(pending_offset(vectors)),
      region_("msix", std::bit_ceil(pending_offset_ + kPage), *this, kAccess),
      entries_(vectors) {
  RHEA_CHECK(vectors >= 1 && vectors <= kMaxVectors);
}

Result<void> Msix::realize(MsiRouter& router) {
  for (Entry& entry : entries_) entry.vector = TRY(router.add_vector());
  return ok();
}

void Msix::unrealize() {
  reset();
  for (Entry& entry : entries_) entry.vector.reset();
}

void Msix::define(PciConfig& config, unsigned bar) {
  capability_ = config.add_capability(kCapabilityId, 12);
  config.define(static_cast<uint8_t>(capability_ + 2), vectors() - 1, 2);
  config.allow_writes(static_cast<uint8_t>(capability_ + 2), kEnable | kFunctionMask, 2);
  config.define(static_cast<uint8_t>(capability_ + 4), bar, 4);
  config.define(static_cast<uint8_t>(capability_ + 8), static_cast<uint32_t>(pending_offset_) | bar,
                4);
}

void Msix::config_written(const PciConfig& config) {
  const uint32_t control = config.read(static_cast<uint8_t>(capability_ + 2), 2);
  const bool enabled = (control & kEnable) != 0;
  const bool masked = (control & kFunctionMask) != 0;
  if (enabled == enabled_ && masked == masked_) return;
  enabled_ = enabled;
  masked_ = masked;
  for (Entry& entry : entries_) update(entry);
}

void Msix::reset() {
  enabled_ = masked_ = false;
  for (Entry& entry : entries_) {
    entry.address_low = entry.address_high = entry.data = 0;
    entry.control = kVectorMasked;
    update(entry);
    if (entry.vector != nullptr) entry.vector->clear();
  }
}

/// Connects or disconnects a vector as its masks say.
void Msix::update(Entry& entry) {
  if (entry.vector == nullptr) return;
  const bool connect = enabled_ && !masked_ && (entry.control & kVectorMasked) == 0;
  if (!connect) {
    if (std::exchange(entry.connected, false)) entry.vector->disconnect();
    return;
  }
  const MsiMessage message{.address = uint64_t{entry.address_high} << 32 | entry.address_low,
                           .data = entry.data};
  const auto connected = entry.vector->connect(message);
  entry.connected = connected.has_value();
  if (connected) return;
  if (connected.error().kind() == ErrorKind::kInvalidArgument) {
    // Wherever it points, it is the guest's choice, and it may choose as often as it likes.
    return errors_.report(GuestError::kBadValue, message.address, message.data);
  }
  RHEA_LOG(kDevices, kWarn, "an interrupt can not be delivered: {}", connected.error().message());
}

uint32_t Msix::read_table(uint64_t offset) const {
  const Entry& entry = entries_[offset / kEntryBytes];
  switch (static_cast<EntryReg>(offset % kEntryBytes)) {
    case EntryReg::kAddressLow:
      return entry.address_low;
    case EntryReg::kAddressHigh:
      return entry.address_high;
    case EntryReg::kData:
      return entry.data;
    case EntryReg::kControl:
      return entry.control;
  }
  return 0;
}

bool Msix::is_pending(Entry& entry) {
  return !entry.connected && entry.vector != nullptr && entry.vector->pending();
}

uint32_t Msix::read_pending(uint64_t offset) {
  const uint64_t first = (offset - pending_offset_) * 8;
  uint32_t bits = 0;
  for (uint64_t i = first; i < first + 32 && i < entries_.size(); ++i) {
    if (is_pending(entries_[i])) bits |= uint32_t{1} << (i - first);
  }
  return bits;
}

uint64_t Msix::io_read(uint64_t offset, unsigned) {
  bql.assert_held();
  if (offset / kEntryBytes < entries_.size()) return read_table(offset);
  return offset >= pending_offset_ ? read_pending(offset) : 0;
}

void Msix::io_write(uint64_t offset, uint64_t value, unsigned) {
  bql.assert_held();
  if (offset / kEntryBytes >= entries_.size()) {
    return errors_.report(GuestError::kReadOnly, offset, value);  // the pending bits, or nothing
  }
  Entry& entry = entries_[offset / kEntryBytes];
  const auto word = static_cast<uint32_t>(value);
  switch (static_cast<EntryReg>(offset % kEntryBytes)) {
    case EntryReg::kAddressLow:
      entry.address_low = word & ~3U;
      break;
    case EntryReg::kAddressHigh:
      entry.address_high = word;
      break;
    case EntryReg::kData:
      entry.data = word;
      break;
    case EntryReg::kControl:
      entry.control = word & kVectorMasked;
      break;
  }
  update(entry);
}

// --- Migration --------------------------------------------------------------------------------

MsixState Msix::state() {
  MsixState state;
  for (Entry& entry : entries_) {
    state.entries.push_back({.address = uint64_t{entry.address_high} << 32 | entry.address_low,
                             .data = entry.data,
                             .masked = (entry.control & kVectorMasked) != 0,
                             .pending = is_pending(entry)});
  }
  return state;
}

Result<void> Msix::check_state(const MsixState& state) const {
  if (state.entries.size() != entries_.size()) {
    return fail(ErrorKind::kCorrupt, "field 'entries': {} vectors, expected {}",
                state.entries.size(), entries_.size());
  }
  for (const auto& entry : state.entries) {
    if (entry.address % 4 == 0) continue;
    return fail(ErrorKind::kCorrupt, "field 'entries': a message to {:#x}", entry.address);
  }
  return ok();
}

void Msix::set_state(const MsixState& state, const PciConfig& config) {
  reset();
  for (size_t i = 0; i < entries_.size(); ++i) {
    const MsixState::Entry& from = state.entries[i];
    Entry& to = entries_[i];
    to.address_low = static_cast<uint32_t>(from.address);
    to.address_high = static_cast<uint32_t>(from.address >> 32);
    to.data = from.data;
    to.control = from.masked ? kVectorMasked : 0;
    if (from.pending && to.vector != nullptr) to.vector->signal();
  }
  config_written(config);
}

}  // namespace rhea::devices
