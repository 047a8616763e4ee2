#include "devices/virtio/virtio_blk.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <utility>

#include "block/graph.h"
#include "util/log.h"

namespace rhea::devices {
namespace {

using Operation = IoError::Operation;
using block::IoVector;
using block::RequestKind;
using block::WriteFlags;

/// [virtio-1.2 5.2.3]
enum class BlkFeature : uint64_t {
  kSegMax = 1 << 2,
  kReadOnly = 1 << 5,
  kBlkSize = 1 << 6,
  kFlush = 1 << 9,
  kTopology = 1 << 10,
  kConfigWce = 1 << 11,
  kMultiQueue = 1 << 12,
  kDiscard = 1 << 13,
  kWriteZeroes = 1 << 14,
};
constexpr uint64_t bit_of(BlkFeature feature) { return std::to_underlying(feature); }

/// [virtio-1.2 5.2.6]
enum class BlkType : uint32_t {
  kIn = 0,
  kOut = 1,
  kFlush = 4,
  kGetId = 8,
  kDiscard = 11,
  kWriteZeroes = 13,
};

struct BlkHeader {
  le32 type;
  le32 reserved;
  le64 sector;
};
static_assert(sizeof(BlkHeader) == 16);

struct BlkRange {
  le64 sector;
  le32 sectors;
  le32 flags;
};
static_assert(sizeof(BlkRange) == 16);
constexpr uint32_t kRangeUnmap = 1;

/// The configuration. [virtio-1.2 5.2.4]
struct BlkConfig {
  le64 capacity;
  le32 size_max;
  le32 seg_max;
  le16 cylinders;
  uint8_t heads;
  uint8_t sectors;
  le32 blk_size;
  uint8_t physical_block_exp;
  uint8_t alignment_offset;
  le16 min_io_size;
  le32 opt_io_size;
  uint8_t writeback;
  uint8_t unused0;
  le16 num_queues;
  le32 max_discard_sectors;
  le32 max_discard_seg;
  le32 discard_sector_alignment;
  le32 max_write_zeroes_sectors;
  le32 max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap;
  std::array<uint8_t, 3> unused1;
};
static_assert(sizeof(BlkConfig) == 60);

constexpr size_t kIdBytes = 20;

block::Permissions permissions_of(const VirtioBlkConfig& config, bool read_only) {
  using enum block::Perm;
  return {
      .taken = read_only ? kConsistentRead : kConsistentRead | kWrite,
      .shared = kConsistentRead | kWriteUnchanged | kResize | (config.share_rw ? kWrite : kNone)};
}

}  // namespace

/// A request after its header, on its coroutine's stack.
struct VirtioBlk::Request {
  VirtioQueue& queue;
  VirtqElement& element;
  uint32_t type;
  uint64_t sector;
  uint32_t written = 0;  // data the guest gets, without the status
};

VirtioBlk::VirtioBlk(std::string id, Host host, block::Graph& graph, VirtioBlkConfig config,
                     IoErrorSink& errors)
    : SavedVirtio(std::move(id), host),
      graph_(graph),
      config_(std::move(config)),
      io_errors_({.device = this->id(),
                  .node = config_.node,
                  .on_read_error = config_.on_read_error,
                  .on_write_error = config_.on_write_error},
                 loop(), errors),
      backend_(graph, this->id(), {}) {
  for (AioContext* context : config_.queues) add_queue(*context, config_.queue_size);
}

VirtioBlk::~VirtioBlk() = default;

Result<void> VirtioBlk::realize() {
  Gs& gs = loop().gs();
  block::Node* node = graph_.find(gs, config_.node);
  if (node == nullptr) {
    return fail(ErrorKind::kNotFound, "Property 'virtio-blk-device.drive' can't find value '{}'",
                config_.node);
  }
  TRY(backend_.set_permissions(gs, permissions_of(config_, node->read_only())));
  backend_.set_guaranteed_alignment(config_.logical_block_size);
  backend_.set_write_cache(config_.write_cache);
  TRY(backend_.insert(gs, *node));
  TRY(VirtioDevice::realize());
  backend_.set_user(this);
  return ok();
}

void VirtioBlk::unrealize() {
  VirtioDevice::unrealize();
  // Its own requests have ended; the machine's flush may be under way.
  loop().waiter().until(loop().gs(), [this] { return backend_.idle(); });
  let_go_of_disk();
  backend_.close();
}

void VirtioBlk::let_go_of_disk() {
  backend_.set_user(nullptr);
  backend_.remove_idle(loop().gs());
}

bool VirtioBlk::idle() const { return VirtioDevice::idle() && backend_.idle(); }

Result<void> VirtioBlk::leave() {
  TRY(VirtioDevice::leave());
  if (!backend_.idle()) return fail(ErrorKind::kTimeout, "'{}' is being flushed", id());
  let_go_of_disk();
  return ok();
}

uint64_t VirtioBlk::device_features() const {
  uint64_t features = bit_of(BlkFeature::kSegMax) | bit_of(BlkFeature::kBlkSize) |
                      bit_of(BlkFeature::kFlush) | bit_of(BlkFeature::kTopology);
  if (config_.indirect_desc) features |= bit(VirtioFeature::kIndirectDesc);
  if (config_.event_idx) features |= bit(VirtioFeature::kEventIdx);
  if (config_.config_wce) features |= bit_of(BlkFeature::kConfigWce);
  if (queues() > 1) features |= bit_of(BlkFeature::kMultiQueue);
  if (config_.discard) features |= bit_of(BlkFeature::kDiscard);
  if (config_.write_zeroes) features |= bit_of(BlkFeature::kWriteZeroes);
  if (backend_.read_only()) features |= bit_of(BlkFeature::kReadOnly);
  return features;
}

/// The driver goes by the block size that it was told. How long the disk is, its image says.
std::string VirtioBlk::settings() const {
  return fmt::format("{} block_size={}", VirtioDevice::settings(), config_.logical_block_size);
}

void VirtioBlk::activated(uint64_t features) {
  if ((features & bit_of(BlkFeature::kConfigWce)) != 0) return;  // the driver says what it wants
  // A driver that does not flush gets a disk that it need not flush. [virtio-1.2 5.2.6.2]
  if ((features & bit_of(BlkFeature::kFlush)) == 0) backend_.set_write_cache(false);
}

void VirtioBlk::was_reset() { backend_.set_write_cache(config_.write_cache); }

size_t VirtioBlk::config_size() const noexcept { return sizeof(BlkConfig); }

void VirtioBlk::read_config(std::span<std::byte> out) {
  const uint32_t block = config_.logical_block_size;
  BlkConfig config{};
  config.capacity = backend_.length() / kSector;
  config.seg_max = config_.queue_size - 2U;
  config.blk_size = block;
  config.physical_block_exp =
      static_cast<uint8_t>(std::countr_zero(config_.physical_block_size / block));
  config.min_io_size = static_cast<uint16_t>(config_.min_io_size / block);
  config.opt_io_size = config_.opt_io_size / block;
  config.writeback = backend_.write_cache() ? 1 : 0;
  config.num_queues = static_cast<uint16_t>(queues());
  config.max_discard_sectors = kMaxSectors;
  config.max_discard_seg = kMaxSegments;
  config.discard_sector_alignment = static_cast<uint32_t>(block / kSector);
  config.max_write_zeroes_sectors = kMaxSectors;
  config.max_write_zeroes_seg = kMaxSegments;
  config.write_zeroes_may_unmap = 1;
  std::memcpy(out.data(), &config, std::min(out.size(), sizeof config));
}

void VirtioBlk::write_config(size_t offset, std::span<const std::byte> data) {
  const bool is_writeback = offset == offsetof(BlkConfig, writeback) && data.size() == 1;
  if (!is_writeback || (driver_features() & bit_of(BlkFeature::kConfigWce)) == 0) {
    return errors().report(GuestError::kReadOnly, offset, data.size());
  }
  // [virtio-1.2 5.2.6.2]
  backend_.set_write_cache(std::to_integer<uint8_t>(data[0]) != 0);
}

void VirtioBlk::drained_begin() noexcept {
  bql.assert_held();
  pause();
}

void VirtioBlk::drained_end() noexcept {
  bql.assert_held();
  resume();
}

// Requests in hand are the backend's to count: one that waits at its gate must not be waited for.
bool VirtioBlk::drained_poll() const noexcept { return pausing(); }

void VirtioBlk::resized(Gs&) noexcept {
  bql.assert_held();
  config_changed();
}

VirtioDevice::Served VirtioBlk::serve(VirtioQueue& queue) {
  while (queue.rings()->has_available()) {
    const auto started =
        rhea::start_here(queue.context(), [this, &queue](Co& co) { handle(co, queue); });
    if (!started) return Served::kStarved;  // no more coroutines: the rest waits in the ring
  }
  return Served::kAll;
}

void VirtioBlk::handle(Co& co, VirtioQueue& queue) {
  VirtqElement element;
  if (!queue.pop(element)) return;
  BlkHeader header;
  if (!element.copy_out(0, std::as_writable_bytes(std::span(&header, 1)))) {
    return queue.reject(element, "a request without a header");
  }
  if (element.writable_bytes() == 0) {
    return queue.reject(element, "a request without room for its status");
  }
  element.skip_readable(sizeof header);
  std::byte* status = element.take_last_writable();
  Request request{queue, element, header.type, header.sector};
  const Status result = perform(co, request);
  *status = static_cast<std::byte>(result);
  // What was written from the start on, never more: the status counts where all before it was
  // filled, and of a read that failed nobody knows what was. [virtio-1.2 2.7.8.2]
  const uint64_t room = element.writable_bytes() - 1;
  queue.complete(element, request.written + (request.written == room ? 1 : 0));
}

VirtioBlk::Status VirtioBlk::perform(Co& co, Request& request) {
  RHEA_TRACE(kDevices, "virtio_blk id={} queue={} type={} sector={}", id(), request.queue.index(),
             request.type, request.sector);
  switch (static_cast<BlkType>(request.type)) {
    case BlkType::kIn:
      return read(co, request);
    case BlkType::kOut:
      return write(co, request);
    case BlkType::kFlush:
      return flush(co, request);
    case BlkType::kGetId:
      return get_id(request);
    case BlkType::kDiscard:
    case BlkType::kWriteZeroes:
      return change_ranges(co, request);
  }
  return Status::kUnsupported;
}

bool VirtioBlk::range_ok(Co& co, uint64_t sector, uint64_t bytes, RequestKind kind) {
  const uint64_t capacity = backend_.length() / kSector;
  const uint64_t block_sectors = config_.logical_block_size / kSector;
  const bool good = bytes % config_.logical_block_size == 0 && sector % block_sectors == 0 &&
                    sector <= capacity && bytes / kSector <= capacity - sector;
  if (!good) backend_.count_invalid(co, kind);
  return good;
}

VirtioBlk::Status VirtioBlk::read(Co& co, Request& request) {
  const IoVector memory = IoVector::of(request.element.writable());
  if (!range_ok(co, request.sector, memory.size, RequestKind::kRead)) return Status::kIoError;
  const Status status = attempt(co, request, Operation::kRead, [&] {
    return backend_.co_read(co, request.sector * kSector, memory);
  });
  if (status == Status::kOk) request.written = static_cast<uint32_t>(memory.size);
  return status;
}

VirtioBlk::Status VirtioBlk::write(Co& co, Request& request) {
  const IoVector memory = IoVector::of(request.element.readable());
  if (!range_ok(co, request.sector, memory.size, RequestKind::kWrite) || backend_.read_only()) {
    return Status::kIoError;
  }
  return attempt(co, request, Operation::kWrite,
                 [&] { return backend_.co_write(co, request.sector * kSector, memory); });
}

VirtioBlk::Status VirtioBlk::flush(Co& co, Request& request) {
  return attempt(co, request, Operation::kWrite, [&] { return backend_.co_flush(co); });
}

/// The serial number, padded with zeros, as much as there is room for. [virtio-1.2 5.2.6]
VirtioBlk::Status VirtioBlk::get_id(Request& request) {
  std::array<char, kIdBytes> id{};
  std::ranges::copy_n(config_.serial.begin(),
                      static_cast<std::ptrdiff_t>(std::min(config_.serial.size(), id.size())),
                      id.begin());
  // The status byte was taken off the pieces already.
  IoVector memory = IoVector::of(request.element.writable());
  const size_t size = std::min<size_t>(id.size(), memory.size);
  memory.copy_from(0, std::as_bytes(std::span(id)).first(size));
  request.written = static_cast<uint32_t>(size);
  return Status::kOk;
}

VirtioBlk::Status VirtioBlk::change_ranges(Co& co, Request& request) {
  const bool discards = static_cast<BlkType>(request.type) == BlkType::kDiscard;
  const uint64_t bytes = IoVector::of(request.element.readable()).size;
  const size_t count = bytes / sizeof(BlkRange);
  // [virtio-1.2 5.2.6.2]
  if (bytes % sizeof(BlkRange) != 0 || count == 0 || count > kMaxSegments) return Status::kIoError;
  if (!(discards ? config_.discard : config_.write_zeroes)) return Status::kUnsupported;
  const auto kind = discards ? RequestKind::kDiscard : RequestKind::kZero;
  // All are looked at before any is carried out, in a copy that the driver can not change.
  std::array<BlkRange, kMaxSegments> ranges;
  IoVector::of(request.element.readable())
      .copy_to(0, std::as_writable_bytes(std::span(ranges).first(count)));
  for (const BlkRange& range : std::span(ranges).first(count)) {
    const uint32_t known = discards ? 0 : kRangeUnmap;
    if ((range.flags & ~known) != 0) return Status::kUnsupported;
    if (range.sectors > kMaxSectors || backend_.read_only()) return Status::kIoError;
    if (!range_ok(co, range.sector, range.sectors * kSector, kind)) return Status::kIoError;
  }
  for (const BlkRange& range : std::span(ranges).first(count)) {
    const uint64_t offset = range.sector * kSector, size = range.sectors * kSector;
    const auto flags = (range.flags & kRangeUnmap) != 0 ? WriteFlags::kMayUnmap : WriteFlags::kNone;
    const Status status = attempt(co, request, Operation::kWrite, [&] {
      return discards ? backend_.co_discard(co, offset, size)
                      : backend_.co_write_zeroes(co, offset, size, flags);
    });
    if (status != Status::kOk) return status;
  }
  return Status::kOk;
}

template <class F>
VirtioBlk::Status VirtioBlk::attempt(Co& co, Request& request, Operation kind, F&& operation) {
  struct Waiter final : IoErrorPolicy::Request {
    explicit Waiter(VirtioBlk::Request& its_request) : request(its_request) {}
    bool given_up() const noexcept override { return request.queue.stopping(); }
    void park() override { request.queue.park(request.element); }
    void unpark() override { request.queue.unpark(request.element); }
    VirtioBlk::Request& request;
  } waiter(request);
  return io_errors_.attempt(co, waiter, kind, operation) ? Status::kOk : Status::kIoError;
}

void VirtioBlk::stopping(VirtioQueue&) { io_errors_.wake_given_up(); }

void VirtioBlk::machine_runs() {
  VirtioDevice::machine_runs();
  io_errors_.machine_runs();
}

}  // namespace rhea::devices
