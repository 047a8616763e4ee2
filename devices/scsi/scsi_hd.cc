#include "devices/scsi/scsi_hd.h"

#include <algorithm>
#include <array>
#include <bit>

namespace rhea::devices {
namespace {

using enum ScsiNeeds;

constexpr uint32_t kDefaultDiscardGranularity = 4096;
constexpr uint16_t kSbc3 = 0x04c0;

constexpr uint8_t kDpoFua = 0x18;         // reads and writes
constexpr uint8_t kDpoByteCheck = 0x12;   // verifies; of BYTCHK's values the first two
constexpr uint8_t kImmediate = 0x06;      // IMMED, SYNC_NV
constexpr uint8_t kUnmapBit = 0x08;       // writes of the same
constexpr uint8_t kUnmapNoBuffer = 0x09;  // and without a block of data
constexpr int kNoAction = ScsiCommand::kNoAction;

// START STOP UNIT.
constexpr uint8_t kStart = 0x01, kNoFlush = 0x04;

// Mode pages. [SBC-3]
constexpr uint8_t kCachingPage = 0x08, kControlPage = 0x0a;
constexpr uint8_t kWriteCacheEnable = 0x04;
constexpr uint8_t kUnrestrictedReordering = 0x10;
constexpr uint8_t kWriteProtect = 0x80, kDpoFuaKnown = 0x10;

void put_caching(std::span<uint8_t> page, bool on) { page[2] = on ? kWriteCacheEnable : 0; }

void put_control(const ScsiDisk&, std::span<uint8_t> page) {
  page[3] = kUnrestrictedReordering;
  page[8] = page[9] = 0xff;  // busy for ever, if it likes
}

}  // namespace

// The rows are in the order of their opcodes.
const ScsiCommand ScsiHd::kCommands[] = {
    {ScsiOpcode::kTestUnitReady,
     kNoAction,
     "TEST UNIT READY",
     kMedium,
     {},
     call<&ScsiHd::test_unit_ready>},
    {ScsiOpcode::kRequestSense, kNoAction, "REQUEST SENSE", kNothing, usage::list6(0x01, 0),
     nullptr},
    {ScsiOpcode::kRead6, kNoAction, "READ(6)", kMedium, usage::kRange6, call<&ScsiHd::read>},
    {ScsiOpcode::kWrite6, kNoAction, "WRITE(6)", kMedium | kWritable, usage::kRange6,
     call<&ScsiHd::write>},
    {ScsiOpcode::kInquiry, kNoAction, "INQUIRY", kNothing, usage::list6(0x01, 0xff),
     call<&ScsiHd::inquiry>},
    {ScsiOpcode::kModeSelect6, kNoAction, "MODE SELECT(6)", kNothing, usage::list6(0x10, 0),
     call<&ScsiHd::mode_select>},
    {ScsiOpcode::kModeSense6, kNoAction, "MODE SENSE(6)", kNothing, usage::list6(0x08, 0xff),
     call<&ScsiHd::mode_sense>},
    {ScsiOpcode::kStartStopUnit,
     kNoAction,
     "START STOP UNIT",
     kNothing,
     {0x01, 0, 0, 0x05},
     call<&ScsiHd::start_stop>},
    {ScsiOpcode::kSendDiagnostic,
     kNoAction,
     "SEND DIAGNOSTIC",
     kNothing,
     {0x04},
     call<&ScsiHd::do_nothing>},
    {ScsiOpcode::kPreventAllow,
     kNoAction,
     "PREVENT ALLOW MEDIUM REMOVAL",
     kRemovable,
     {0, 0, 0, 0x01},
     call<&ScsiHd::do_nothing>},
    {ScsiOpcode::kReadCapacity10,
     kNoAction,
     "READ CAPACITY(10)",
     kMedium,
     {},
     call<&ScsiHd::read_capacity_10>},
    {ScsiOpcode::kRead10, kNoAction, "READ(10)", kMedium, usage::range10(kDpoFua),
     call<&ScsiHd::read>},
    {ScsiOpcode::kWrite10, kNoAction, "WRITE(10)", kMedium | kWritable, usage::range10(kDpoFua),
     call<&ScsiHd::write>},
    {ScsiOpcode::kWriteAndVerify10, kNoAction, "WRITE AND VERIFY(10)", kMedium | kWritable,
     usage::range10(kDpoByteCheck), call<&ScsiHd::write_and_verify>},
    {ScsiOpcode::kVerify10, kNoAction, "VERIFY(10)", kMedium, usage::range10(kDpoByteCheck),
     call<&ScsiHd::verify>},
    {ScsiOpcode::kSynchronizeCache10, kNoAction, "SYNCHRONIZE CACHE(10)", kMedium,
     usage::range10(kImmediate), call<&ScsiHd::synchronize_cache>},
    {ScsiOpcode::kWriteSame10, kNoAction, "WRITE SAME(10)", kMedium | kWritable,
     usage::range10(kUnmapBit), call<&ScsiHd::write_same>},
    {ScsiOpcode::kUnmap, kNoAction, "UNMAP", kMedium | kWritable | kDiscard, usage::kUnmap,
     call<&ScsiHd::unmap>},
    {ScsiOpcode::kModeSelect10, kNoAction, "MODE SELECT(10)", kNothing, usage::kModeSelect10,
     call<&ScsiHd::mode_select>},
    {ScsiOpcode::kModeSense10, kNoAction, "MODE SENSE(10)", kNothing, usage::kModeSense10,
     call<&ScsiHd::mode_sense>},
    {ScsiOpcode::kRead16, kNoAction, "READ(16)", kMedium, usage::range16(kDpoFua),
     call<&ScsiHd::read>},
    {ScsiOpcode::kWrite16, kNoAction, "WRITE(16)", kMedium | kWritable, usage::range16(kDpoFua),
     call<&ScsiHd::write>},
    {ScsiOpcode::kWriteAndVerify16, kNoAction, "WRITE AND VERIFY(16)", kMedium | kWritable,
     usage::range16(kDpoByteCheck), call<&ScsiHd::write_and_verify>},
    {ScsiOpcode::kVerify16, kNoAction, "VERIFY(16)", kMedium, usage::range16(kDpoByteCheck),
     call<&ScsiHd::verify>},
    {ScsiOpcode::kSynchronizeCache16, kNoAction, "SYNCHRONIZE CACHE(16)", kMedium,
     usage::range16(kImmediate), call<&ScsiHd::synchronize_cache>},
    {ScsiOpcode::kWriteSame16, kNoAction, "WRITE SAME(16)", kMedium | kWritable,
     usage::range16(kUnmapNoBuffer), call<&ScsiHd::write_same>},
    {ScsiOpcode::kServiceActionIn16, 0x10, "READ CAPACITY(16)", kMedium, usage::kCapacity16,
     call<&ScsiHd::read_capacity_16>},
    {ScsiOpcode::kServiceActionIn16, 0x12, "GET LBA STATUS", kMedium, usage::kLbaStatus,
     call<&ScsiHd::get_lba_status>},
    {ScsiOpcode::kReportLuns, kNoAction, "REPORT LUNS", kNothing, usage::kReportLuns, nullptr},
    {ScsiOpcode::kMaintenanceIn, 0x0c, "REPORT SUPPORTED OPERATION CODES", kNothing,
     usage::kReportOpcodes, call<&ScsiHd::report_supported_opcodes>},
    {ScsiOpcode::kRead12, kNoAction, "READ(12)", kMedium, usage::range12(kDpoFua),
     call<&ScsiHd::read>},
    {ScsiOpcode::kWrite12, kNoAction, "WRITE(12)", kMedium | kWritable, usage::range12(kDpoFua),
     call<&ScsiHd::write>},
    {ScsiOpcode::kWriteAndVerify12, kNoAction, "WRITE AND VERIFY(12)", kMedium | kWritable,
     usage::range12(kDpoByteCheck), call<&ScsiHd::write_and_verify>},
    {ScsiOpcode::kVerify12, kNoAction, "VERIFY(12)", kMedium, usage::range12(kDpoByteCheck),
     call<&ScsiHd::verify>},
};

const ScsiDisk::VpdPage ScsiHd::kVpdPages[] = {
    {0x00, always, put_page_list},       {0x80, has_serial, put_unit_serial},
    {0x83, always, put_identification},  {0xb0, always, put_block_limits},
    {0xb1, always, put_characteristics}, {0xb2, always, put_provisioning},
};

const ScsiDisk::ModePage ScsiHd::kModePages[] = {
    {kCachingPage, 20,
     [](const ScsiDisk& disk, std::span<uint8_t> page) {
       put_caching(page, disk.backend().write_cache());
     },
     [](const ScsiDisk& disk, std::span<uint8_t> page) {
       put_caching(page, static_cast<const ScsiHd&>(disk).hd_.write_cache);
     },
     [](std::span<uint8_t> page) { put_caching(page, true); }},
    {kControlPage, 12, put_control, put_control, nullptr},
};

ScsiHd::ScsiHd(std::string name, const ScsiAddress& address, block::Graph& graph,
               const ScsiHdConfig& config, IoErrorSink& errors)
    : ScsiDisk(std::move(name), address, graph, config,
               {.driver = "scsi-hd",
                .peripheral_type = 0x00,
                .removable = config.removable,
                .read_only = false,
                .command_standard = kSbc3,
                .block_size = config.logical_block_size},
               errors),
      hd_(config),
      discard_granularity_(config.discard_granularity.value_or(
          std::max(kDefaultDiscardGranularity, config.logical_block_size))) {}

ScsiHd::~ScsiHd() = default;

std::span<const ScsiCommand> ScsiHd::commands() const { return kCommands; }
std::span<const ScsiDisk::VpdPage> ScsiHd::vpd_pages() const { return kVpdPages; }
std::span<const ScsiDisk::ModePage> ScsiHd::mode_pages() const { return kModePages; }

void ScsiHd::reset() { backend().set_write_cache(hd_.write_cache); }

uint8_t ScsiHd::device_specific() const {
  return kDpoFuaKnown | (backend().read_only() ? kWriteProtect : 0);
}

std::optional<ScsiOutcome> ScsiHd::mode_selected(Co& co, ScsiRequest& request,
                                                 std::span<const uint8_t> page) {
  if (page[0] != kCachingPage) return std::nullopt;
  const bool on = (page[2] & kWriteCacheEnable) != 0;
  const bool was_on = backend().write_cache();
  backend().set_write_cache(on);
  // Whoever turns the cache off takes all that is written for safe from there on.
  return was_on && !on ? flush(co, request) : std::nullopt;
}

/// [SBC-3 Block Limits]
void ScsiHd::put_block_limits(const ScsiDisk& disk, ScsiReply& reply) {
  const auto& self = static_cast<const ScsiHd&>(disk);
  const uint32_t block = self.block_size();
  const bool unmaps = self.gives_space_back();
  reply.put8(1);  // WSNZ: a write of the same says how much
  reply.put8(0);  // no COMPARE AND WRITE
  reply.put16(std::min<uint32_t>(self.hd_.min_io_size / block, UINT16_MAX));
  reply.put32(0);  // transfers are as long as memory is
  reply.put32(self.hd_.opt_io_size / block);
  reply.put32(0);
  reply.put32(unmaps ? kMostUnmapBytes / block : 0);
  reply.put32(unmaps ? kMostUnmapRanges : 0);
  reply.put32(self.discard_granularity_ / block);
  reply.put32(unmaps ? 0x8000'0000 : 0);  // UGAVALID: aligned to block 0
  reply.put64(kMostWriteSameBytes / block);
  reply.put_zeros(20);
}

/// [SBC-3 Block Device Characteristics]
void ScsiHd::put_characteristics(const ScsiDisk& disk, ScsiReply& reply) {
  reply.put16(static_cast<const ScsiHd&>(disk).hd_.rotation_rate);
  reply.put_zeros(58);
}

/// [SBC-3 Logical Block Provisioning]
void ScsiHd::put_provisioning(const ScsiDisk& disk, ScsiReply& reply) {
  constexpr uint8_t kUnmaps = 0xe0;  // LBPU, LBPWS, LBPWS10
  constexpr uint8_t kFull = 0, kThin = 2;
  const bool unmaps = static_cast<const ScsiHd&>(disk).gives_space_back();
  reply.put8(0);
  reply.put8(unmaps ? kUnmaps : 0);
  reply.put8(unmaps ? kThin : kFull);
  reply.put8(0);
}

ScsiOutcome ScsiHd::read_capacity_16(Co&, ScsiRequest& request) {
  constexpr uint16_t kProvisioned = 0x8000;  // LBPME
  const uint64_t all = blocks();
  if (all == 0) return ScsiOutcome::check(sense::kManualIntervention);
  const uint32_t physical = std::max(hd_.physical_block_size, block_size());
  ScsiReply reply;
  reply.put64(all - 1);
  reply.put32(block_size());
  reply.put8(0);
  reply.put8(static_cast<unsigned>(std::countr_zero(physical / block_size())));
  reply.put16(gives_space_back() ? kProvisioned : 0);
  reply.put_zeros(16);
  return answer(request, reply, ScsiCdb(request.cdb).list_length());
}

ScsiOutcome ScsiHd::start_stop(Co& co, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  // What does not turn need not stop; but the initiator may be about to take the power away.
  if (!cdb.has(4, kStart) && !cdb.has(4, kNoFlush)) {
    if (const auto bad = flush(co, request)) return *bad;
  }
  return ScsiOutcome::good(0);
}

ScsiOutcome ScsiHd::synchronize_cache(Co& co, ScsiRequest& request) {
  const ScsiCdb::Range range = ScsiCdb(request.cdb).range();
  if (const auto bad = check_range(co, range, block::RequestKind::kFlush)) return *bad;
  if (const auto bad = flush(co, request)) return *bad;
  return ScsiOutcome::good(0);
}

}  // namespace rhea::devices
