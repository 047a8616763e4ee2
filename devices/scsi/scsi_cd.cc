#include "devices/scsi/scsi_cd.h"

#include <array>
#include <utility>

namespace rhea::devices {
namespace {

using enum ScsiNeeds;
using Usage = std::array<uint8_t, 15>;

constexpr uint16_t kMmc6 = 0x04e0;
constexpr int kNoAction = ScsiCommand::kNoAction;

constexpr Usage kReadToc{0x02, 0x0f, 0, 0, 0, 0xff, 0xff, 0xff, 0xc0};
constexpr Usage kConfiguration{0x03, 0xff, 0xff, 0, 0, 0, 0xff, 0xff};
constexpr Usage kEventStatus{0x01, 0, 0, 0xff, 0, 0, 0xff, 0xff};
constexpr Usage kDiscInformation{0x07, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr Usage kMechanism{0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr Usage kSeek{0, 0xff, 0xff, 0xff, 0xff};

constexpr uint8_t kDpoFua = 0x18;
constexpr uint8_t kStart = 0x01, kLoadEject = 0x02;
constexpr uint8_t kErrorRecoveryPage = 0x01;

void put_error_recovery(const ScsiDisk&, std::span<uint8_t>) {}

}  // namespace

// The rows are in the order of their opcodes.
const ScsiCommand ScsiCd::kCommands[] = {
    {ScsiOpcode::kTestUnitReady,
     kNoAction,
     "TEST UNIT READY",
     kMedium,
     {},
     call<&ScsiCd::test_unit_ready>},
    {ScsiOpcode::kRequestSense, kNoAction, "REQUEST SENSE", kNothing, usage::list6(0x01, 0),
     nullptr},
    {ScsiOpcode::kInquiry, kNoAction, "INQUIRY", kNothing, usage::list6(0x01, 0xff),
     call<&ScsiCd::inquiry>},
    {ScsiOpcode::kModeSelect6, kNoAction, "MODE SELECT(6)", kNothing, usage::list6(0x10, 0),
     call<&ScsiCd::mode_select>},
    {ScsiOpcode::kModeSense6, kNoAction, "MODE SENSE(6)", kNothing, usage::list6(0x08, 0xff),
     call<&ScsiCd::mode_sense>},
    {ScsiOpcode::kStartStopUnit,
     kNoAction,
     "START STOP UNIT",
     kNothing,
     {0x01, 0, 0, 0x03},
     call<&ScsiCd::start_stop>},
    {ScsiOpcode::kPreventAllow,
     kNoAction,
     "PREVENT ALLOW MEDIUM REMOVAL",
     kNothing,
     {0, 0, 0, 0x01},
     call<&ScsiCd::prevent_allow>},
    {ScsiOpcode::kReadCapacity10,
     kNoAction,
     "READ CAPACITY(10)",
     kMedium,
     {},
     call<&ScsiCd::read_capacity_10>},
    {ScsiOpcode::kRead10, kNoAction, "READ(10)", kMedium, usage::range10(kDpoFua),
     call<&ScsiCd::read>},
    {ScsiOpcode::kSeek10, kNoAction, "SEEK(10)", kMedium, kSeek, call<&ScsiCd::seek>},
    {ScsiOpcode::kReadToc, kNoAction, "READ TOC/PMA/ATIP", kMedium, kReadToc,
     call<&ScsiCd::read_toc>},
    {ScsiOpcode::kGetConfiguration, kNoAction, "GET CONFIGURATION", kNothing, kConfiguration,
     call<&ScsiCd::get_configuration>},
    {ScsiOpcode::kGetEventStatus, kNoAction, "GET EVENT STATUS NOTIFICATION", kNothing,
     kEventStatus, call<&ScsiCd::get_event_status>},
    {ScsiOpcode::kReadDiscInformation, kNoAction, "READ DISC INFORMATION", kMedium,
     kDiscInformation, call<&ScsiCd::read_disc_information>},
    {ScsiOpcode::kModeSelect10, kNoAction, "MODE SELECT(10)", kNothing, usage::kModeSelect10,
     call<&ScsiCd::mode_select>},
    {ScsiOpcode::kModeSense10, kNoAction, "MODE SENSE(10)", kNothing, usage::kModeSense10,
     call<&ScsiCd::mode_sense>},
    {ScsiOpcode::kReportLuns, kNoAction, "REPORT LUNS", kNothing, usage::kReportLuns, nullptr},
    {ScsiOpcode::kMaintenanceIn, 0x0c, "REPORT SUPPORTED OPERATION CODES", kNothing,
     usage::kReportOpcodes, call<&ScsiCd::report_supported_opcodes>},
    {ScsiOpcode::kRead12, kNoAction, "READ(12)", kMedium, usage::range12(kDpoFua),
     call<&ScsiCd::read>},
    {ScsiOpcode::kMechanismStatus, kNoAction, "MECHANISM STATUS", kNothing, kMechanism,
     call<&ScsiCd::mechanism_status>},
};

const ScsiDisk::VpdPage ScsiCd::kVpdPages[] = {
    {0x00, always, put_page_list},
    {0x80, has_serial, put_unit_serial},
    {0x83, always, put_identification},
};

const ScsiDisk::ModePage ScsiCd::kModePages[] = {
    {kErrorRecoveryPage, 12, put_error_recovery, put_error_recovery, nullptr},
    {mmc::kCapabilitiesPage, mmc::kCapabilitiesSize,
     [](const ScsiDisk& disk, std::span<uint8_t> page) {
       mmc::put_capabilities(static_cast<const ScsiCd&>(disk).tray_->locked(), page);
     },
     [](const ScsiDisk&, std::span<uint8_t> page) { mmc::put_capabilities(false, page); }, nullptr},
};

ScsiCd::ScsiCd(std::string name, const ScsiAddress& address, block::Graph& graph,
               const ScsiCdConfig& config, IoErrorSink& errors, ScsiTraySink& tray)
    : ScsiDisk(std::move(name), address, graph, config,
               {.driver = "scsi-cd",
                .peripheral_type = 0x05,
                .removable = true,
                .read_only = true,
                .command_standard = kMmc6,
                .block_size = mmc::kBlockSize},
               errors),
      tray_(std::make_shared<ScsiTray>(this->name(), graph.loop(), tray)) {}

ScsiCd::~ScsiCd() = default;

std::span<const ScsiCommand> ScsiCd::commands() const { return kCommands; }
std::span<const ScsiDisk::VpdPage> ScsiCd::vpd_pages() const { return kVpdPages; }
std::span<const ScsiDisk::ModePage> ScsiCd::mode_pages() const { return kModePages; }

Result<void> ScsiCd::realize() {
  TRY(ScsiDisk::realize());
  if (backend().node(graph().loop().gs()) != nullptr) tray_->set_medium(true);
  return ok();
}

void ScsiCd::reset() { tray_->reset(); }

Result<void> ScsiCd::open_tray(Force force) {
  if (tray_->open(force) == ScsiTray::Move::kLocked) {
    tray_->request_eject();
    return fail(ErrorKind::kBusy,
                "Device '{}' is locked and force was not specified, wait for tray to open and try "
                "again",
                name());
  }
  tray_->tell();
  return ok();
}

void ScsiCd::close_tray() {
  if (tray_->close() == ScsiTray::Move::kMoved) medium_came();
  tray_->tell();
}

Result<void> ScsiCd::set_medium(block::Node* node) {
  Gs& gs = graph().loop().gs();
  if (tray_->position() != ScsiTrayPosition::kOpen) {
    return fail(ErrorKind::kBusy, "Tray of device '{}' is not open", name());
  }
  if (node != nullptr && backend().node(gs) != nullptr) {
    return fail(ErrorKind::kExists, "There already is a medium in device '{}'", name());
  }
  changing_medium_ = true;
  auto changed = node != nullptr ? backend().insert(gs, *node) : backend().remove(gs);
  changing_medium_ = false;
  TRY(std::move(changed));
  set_error_node(node != nullptr ? node->name() : std::string());
  if (tray_->set_medium(node != nullptr) == ScsiTrayPosition::kClosed) medium_came();
  return ok();
}

/// The tray is shut: there may be another medium now, of which nothing is known.
void ScsiCd::medium_came() {
  ScsiUnitOwner* bus = owner();
  if (bus != nullptr && tray_->has_medium()) bus->attention(*this, sense::kMediumChanged);
}

std::optional<ScsiSense> ScsiCd::not_ready() const {
  switch (tray_->readiness()) {
    case ScsiTray::Readiness::kReady:
      return std::nullopt;
    case ScsiTray::Readiness::kNoMedium:
      return sense::kNoMedium;
    case ScsiTray::Readiness::kOpen:
      return sense::kNoMediumTrayOpen;
  }
  return std::nullopt;
}

/// Of a medium that comes or goes the guest hears when the tray is shut.
void ScsiCd::resized(Gs& gs) noexcept {
  if (!changing_medium_) ScsiDisk::resized(gs);
}

ScsiOutcome ScsiCd::start_stop(Co&, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  if (!cdb.has(4, kLoadEject)) return ScsiOutcome::good(0);  // what does not turn need not stop
  const bool loads = cdb.has(4, kStart);
  const ScsiTray::Move move = loads ? tray_->close() : tray_->open(Force::kNo);
  if (move == ScsiTray::Move::kLocked) return ScsiOutcome::check(sense::kRemovalPrevented);
  if (move == ScsiTray::Move::kMoved) {
    if (loads) medium_came();
    tray_->tell_later();
  }
  return ScsiOutcome::good(0);
}

ScsiOutcome ScsiCd::prevent_allow(Co&, ScsiRequest& request) {
  const bool prevents = ScsiCdb(request.cdb).has(4, 0x01);
  tray_->set_lock(prevents ? ScsiTray::Lock::kOn : ScsiTray::Lock::kOff);
  return ScsiOutcome::good(0);
}

ScsiOutcome ScsiCd::seek(Co&, ScsiRequest& request) {
  const bool there = ScsiCdb(request.cdb).range().lba < blocks();
  return there ? ScsiOutcome::good(0) : ScsiOutcome::check(sense::kLbaOutOfRange);
}

ScsiOutcome ScsiCd::read_toc(Co&, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  // Where older standards have the format, and Linux's sr puts it. [MMC-6 READ TOC]
  const auto old_format = static_cast<uint8_t>(cdb[9] >> 6);
  const auto format = static_cast<uint8_t>(cdb[2] & 0x0f);
  const mmc::TocRequest what{
      .format = format != 0 ? format : old_format, .in_msf = cdb.has(1, 0x02), .start = cdb[6]};
  ScsiReply reply;
  if (const auto reason = mmc::put_toc(what, blocks(), reply)) return ScsiOutcome::check(*reason);
  return answer(request, reply, cdb.list_length());
}

ScsiOutcome ScsiCd::get_configuration(Co&, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const auto which = static_cast<mmc::Features>(cdb[1] & 0x03);
  if (which > mmc::Features::kOne) return ScsiOutcome::check(sense::kInvalidField);
  const mmc::Medium medium = not_ready() ? mmc::Medium::kNone : mmc::medium_of(blocks());
  ScsiReply reply;
  mmc::put_configuration(which, static_cast<uint16_t>(cdb.be(2, 2)), medium, reply);
  return answer(request, reply, cdb.list_length());
}

ScsiOutcome ScsiCd::get_event_status(Co&, ScsiRequest& request) {
  constexpr uint8_t kPolled = 0x01;
  constexpr uint32_t kHeader = 4;
  const ScsiCdb cdb(request.cdb);
  if (!cdb.has(1, kPolled)) return ScsiOutcome::check(sense::kInvalidField);
  ScsiReply reply;
  if (!cdb.has(4, 1 << mmc::kMediaClass)) {
    mmc::put_no_event(reply);
    return answer(request, reply, cdb.list_length());
  }
  // Who does not hear of the event, for want of room, hears of it the next time. [MMC-6]
  if (cdb.list_length() > kHeader && request.data_in.size < 8) return overrun();
  const auto event = cdb.list_length() > kHeader ? tray_->take_event() : ScsiTray::Event::kNone;
  mmc::put_media_event(event, *tray_, reply);
  return answer(request, reply, cdb.list_length());
}

ScsiOutcome ScsiCd::read_disc_information(Co&, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  if ((cdb[1] & 0x07) != 0) return ScsiOutcome::check(sense::kInvalidField);
  ScsiReply reply;
  mmc::put_disc_information(reply);
  return answer(request, reply, cdb.list_length());
}

ScsiOutcome ScsiCd::mechanism_status(Co&, ScsiRequest& request) {
  ScsiReply reply;
  mmc::put_mechanism_status(*tray_, reply);
  return answer(request, reply, ScsiCdb(request.cdb).be(8, 2));
}

ScsiUnitState ScsiCd::state() const {
  ScsiUnitState state = tray_->saved();
  state.write_cache = backend().write_cache();
  return state;
}

std::string ScsiCd::settings() const {
  return fmt::format("{} medium={}", ScsiDisk::settings(), tray_->has_medium() ? "yes" : "no");
}

Result<void> ScsiCd::check_state(const ScsiUnitState& state) const {
  if (state.has_medium != tray_->has_medium()) {
    return fail(ErrorKind::kCorrupt, "field 'unit.has_medium': {}, but '{}' has {} medium",
                state.has_medium, name(), tray_->has_medium() ? "a" : "no");
  }
  return ScsiTray::check(state);
}

void ScsiCd::set_state(const ScsiUnitState& state) {
  ScsiDisk::set_state(state);
  tray_->load(state);
}

}  // namespace rhea::devices
