#include "devices/scsi/scsi_disk.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "devices/scsi/scsi_memory.h"
#include "util/log.h"

namespace rhea::devices {
namespace {

using block::RequestKind;

constexpr uint8_t kServiceActionMask = 0x1f;
constexpr uint8_t kForceUnitAccess = 0x08;

block::Permissions permissions_of(const ScsiDiskConfig& config, bool read_only) {
  using enum block::Perm;
  return {
      .taken = read_only ? kConsistentRead : kConsistentRead | kWrite,
      .shared = kConsistentRead | kWriteUnchanged | kResize | (config.share_rw ? kWrite : kNone)};
}

/// What the initiator hears of the host's error.
ScsiSense sense_of(IoError::Operation kind, const Error& error) {
  switch (error.os_errno()) {
    case ENOMEDIUM:
      return sense::kNoMedium;
    case ENOSPC:
      return sense::kSpaceAllocFailed;
    case EINVAL:
      return sense::kInvalidField;
    case EROFS:
      return sense::kWriteProtected;
    case EIO:
    case ENODATA:
      return kind == IoError::Operation::kRead ? sense::kReadError : sense::kWriteError;
    default:
      break;
  }
  switch (error.kind()) {
    case ErrorKind::kNotFound:  // the backend's: the medium has gone meanwhile
      return sense::kNoMedium;
    case ErrorKind::kPermission:
      return sense::kWriteProtected;
    case ErrorKind::kInvalidArgument:  // the medium has become shorter meanwhile
      return sense::kLbaOutOfRange;
    default:
      return sense::kTargetFailure;
  }
}

}  // namespace

ScsiDisk::ScsiDisk(std::string name, const ScsiAddress& address, block::Graph& graph,
                   ScsiDiskConfig config, const Kind& kind, IoErrorSink& errors)
    : ScsiUnit(std::move(name), address),
      graph_(graph),
      config_(std::move(config)),
      kind_(kind),
      errors_({.device = this->name(),
               .node = config_.node,
               .on_read_error = config_.on_read_error,
               .on_write_error = config_.on_write_error},
              graph.loop(), errors),
      backend_(graph, this->name(), {}) {}

ScsiDisk::~ScsiDisk() = default;

Result<void> ScsiDisk::realize() {
  Gs& gs = graph_.loop().gs();
  block::Node* node = nullptr;
  if (!config_.node.empty()) {
    node = graph_.find(gs, config_.node);
    if (node == nullptr) {
      return fail(ErrorKind::kNotFound, "Property '{}.drive' can't find value '{}'", kind_.driver,
                  config_.node);
    }
  }
  const bool reads_only = kind_.read_only || (node != nullptr && node->read_only());
  TRY(backend_.set_permissions(gs, permissions_of(config_, reads_only)));
  backend_.set_guaranteed_alignment(kind_.block_size);
  backend_.set_write_cache(config_.write_cache);
  if (node != nullptr) TRY(backend_.insert(gs, *node));
  backend_.set_user(this);
  return ok();
}

void ScsiDisk::unrealize() {
  // Its own requests have ended; the machine's flush may be under way.
  Gs& gs = graph_.loop().gs();
  graph_.loop().waiter().until(gs, [this] { return backend_.idle(); });
  backend_.set_user(nullptr);
  backend_.remove_idle(gs);
  backend_.close();
}

void ScsiDisk::machine_runs() { errors_.machine_runs(); }

void ScsiDisk::wake_cancelled() { errors_.wake_given_up(); }

void ScsiDisk::resized(Gs&) noexcept {
  if (ScsiUnitOwner* bus = owner()) bus->attention(*this, sense::kCapacityChanged);
}

ScsiOutcome ScsiDisk::execute(Co& co, ScsiRequest& request) {
  if (request.cancelled()) return cancelled(request);
  const ScsiCdb cdb(request.cdb);
  const ScsiCommand* found = nullptr;
  bool knows_opcode = false;
  for (const ScsiCommand& command : commands()) {
    if (std::to_underlying(command.opcode) != cdb.opcode()) continue;
    if (!supports(*this, command)) continue;
    knows_opcode = true;
    if (command.has_action() && command.service_action != (cdb[1] & kServiceActionMask)) continue;
    found = &command;
    break;
  }
  if (found == nullptr || found->handler == nullptr) {
    RHEA_TRACE(kDevices, "scsi unit={} opcode={:#x} unknown", name(), cdb.opcode());
    return ScsiOutcome::check(knows_opcode && found == nullptr ? sense::kInvalidField
                                                               : sense::kInvalidOpcode);
  }
  RHEA_TRACE(kDevices, "scsi unit={} tag={:#x} {}", name(), request.tag, found->name);
  if (const auto reason = refuses(*found, cdb)) return ScsiOutcome::check(*reason);
  return found->handler(*this, co, request);
}

bool ScsiDisk::supports(const ScsiDisk& disk, const ScsiCommand& command) {
  if (has(command.needs, ScsiNeeds::kDiscard) && !disk.gives_space_back()) return false;
  return !has(command.needs, ScsiNeeds::kRemovable) || disk.kind_.removable;
}

std::optional<ScsiSense> ScsiDisk::refuses(const ScsiCommand& command, const ScsiCdb& cdb) const {
  if (!command.accepts(cdb)) return sense::kInvalidField;
  if (has(command.needs, ScsiNeeds::kMedium)) {
    if (auto reason = not_ready()) return reason;
  }
  if (has(command.needs, ScsiNeeds::kWritable) && backend_.read_only()) {
    return sense::kWriteProtected;
  }
  return std::nullopt;
}

ScsiOutcome ScsiDisk::failed(ScsiRequest& request, const Step& step, const Error& error) const {
  if (request.cancelled()) return cancelled(request);
  ScsiSense what = sense_of(step.kind, error);
  // The first block of the step: the host does not say which of them it was, and an initiator takes
  // all before it for done.
  if (what.key == ScsiSenseKey::kMediumError) what.information = step.lba;
  return ScsiOutcome::check(what);
}

ScsiOutcome ScsiDisk::answer(ScsiRequest& request, const ScsiReply& reply, uint64_t allocation) {
  const auto bytes = std::as_bytes(reply.bytes());
  const auto wanted = bytes.first(std::min<uint64_t>(bytes.size(), allocation));
  if (wanted.size() > request.data_in.size) return overrun();
  request.data_in.copy_from(0, wanted);
  return ScsiOutcome::good(wanted.size());
}

std::optional<ScsiOutcome> ScsiDisk::check_range(Co& co, const ScsiCdb::Range& range,
                                                 RequestKind what) {
  const uint64_t all = blocks();
  if (range.lba <= all && range.blocks <= all - range.lba) return std::nullopt;
  backend_.count_invalid(co, what);
  return ScsiOutcome::check(sense::kLbaOutOfRange);
}

std::optional<ScsiOutcome> ScsiDisk::flush(Co& co, ScsiRequest& request) {
  return attempt(co, request, {.kind = IoError::Operation::kWrite},
                 [&] { return backend_.co_flush(co); });
}

ScsiOutcome ScsiDisk::test_unit_ready(Co&, ScsiRequest&) { return ScsiOutcome::good(0); }

ScsiOutcome ScsiDisk::do_nothing(Co&, ScsiRequest&) { return ScsiOutcome::good(0); }

ScsiOutcome ScsiDisk::report_supported_opcodes(Co&, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  ScsiReply reply;
  if (const auto reason = report_opcodes(cdb, commands(), *this, supports, reply)) {
    return ScsiOutcome::check(*reason);
  }
  return answer(request, reply, cdb.list_length());
}

ScsiOutcome ScsiDisk::read_capacity_10(Co&, ScsiRequest& request) {
  const uint64_t all = blocks();
  if (all == 0) return ScsiOutcome::check(sense::kManualIntervention);
  ScsiReply reply;
  reply.put32(std::min<uint64_t>(all - 1, UINT32_MAX));  // all ones: ask READ CAPACITY(16)
  reply.put32(block_size());
  return answer(request, reply, reply.size());
}

ScsiOutcome ScsiDisk::read(Co& co, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const ScsiCdb::Range range = cdb.range();
  if (const auto bad = check_range(co, range, RequestKind::kRead)) return *bad;
  const uint64_t bytes = range.blocks * block_size();
  if (bytes > request.data_in.size) return overrun();
  if (cdb.size() > 6 && cdb.has(1, kForceUnitAccess)) {
    // From the medium, and so with what is cached written to it before. [SBC-3 READ(10)]
    if (const auto bad = flush(co, request)) return *bad;
  }
  const ScsiMemory memory(request.data_in, bytes);
  const Step step{IoError::Operation::kRead, range.lba};
  if (const auto bad = attempt(co, request, step, [&] {
        return backend_.co_read(co, range.lba * block_size(), memory.view());
      })) {
    return *bad;
  }
  return ScsiOutcome::good(bytes);
}

ScsiUnitState ScsiDisk::state() const {
  ScsiUnitState state;
  state.write_cache = backend_.write_cache();
  return state;
}

/// It has no tray.
/// Addresses count in blocks.
std::string ScsiDisk::settings() const { return fmt::format("block_size={}", block_size()); }

Result<void> ScsiDisk::check_state(const ScsiUnitState& state) const {
  ScsiUnitState ours;
  ours.write_cache = state.write_cache;
  if (state == ours) return ok();
  return fail(ErrorKind::kCorrupt, "field 'unit': a tray, which '{}' has not", name());
}

void ScsiDisk::set_state(const ScsiUnitState& state) {
  backend_.set_write_cache(state.write_cache);
}

}  // namespace rhea::devices
