#include "util/io_ring.h"

#include <fcntl.h>

#include <cerrno>
#include <climits>
#include <utility>

#include "util/check.h"
#include "util/internal/memory_ranges.h"
#include "util/internal/ring_core.h"

namespace rhea {

using internal::RingCore;
using internal::RingMemory;
using internal::RingOperation;

namespace {

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

uint8_t entry_flags(RingFile file) {
  return file.kind == RingFile::Kind::kSlot ? uint8_t{IOSQE_FIXED_FILE} : uint8_t{0};
}

RingOperation on_file(uint8_t opcode, RingFile file) {
  return {.opcode = opcode, .entry_flags = entry_flags(file), .fd = file.number};
}

/// One direction's operations: on any memory, on parts of it, on registered memory.
struct Opcodes {
  uint8_t plain, vectored, registered;
};
constexpr Opcodes kRead{IORING_OP_READ, IORING_OP_READV, IORING_OP_READ_FIXED};
constexpr Opcodes kWrite{IORING_OP_WRITE, IORING_OP_WRITEV, IORING_OP_WRITE_FIXED};

RingOperation transfer(RingCore& core, const Opcodes& opcodes, RingFile file,
                       std::span<const iovec> iov) {
  // One part needs no vector, which the kernel would have to copy and check.
  if (iov.size() != 1 || iov[0].iov_len > INT_MAX) {
    RingOperation operation = on_file(opcodes.vectored, file);
    operation.address = address_of(iov.data());
    operation.length = static_cast<uint32_t>(iov.size());
    return operation;
  }
  const RingMemory::Place place = core.memory().enter(iov[0].iov_base, iov[0].iov_len);
  RingOperation operation =
      on_file(place.range != nullptr ? opcodes.registered : opcodes.plain, file);
  operation.address = address_of(iov[0].iov_base);
  operation.length = static_cast<uint32_t>(iov[0].iov_len);
  operation.memory = place;
  return operation;
}

}  // namespace

IoRing::IoRing(std::unique_ptr<RingCore> core, AioContext& context)
    : core_(std::move(core)),
      context_(context),
      memory_changed_(context, [this] { core_->memory().update(); }),
      follower_(std::make_unique<internal::MemoryFollower>(memory_changed_)) {
  core_->memory().update();
}
IoRing::~IoRing() = default;

int32_t IoRing::run(Co& co, const RingOperation& operation) {
  RHEA_CHECK(&co.executor() == &context_, "a coroutine uses the io_uring of another context");
  internal::RingRequest request(operation, co.coroutine());
  core_->queue(request);
  co.yield();
  return request.result;
}

int32_t IoRing::co_readv(Co& co, RingFile file, std::span<const iovec> iov, uint64_t offset) {
  if (iov.size() > IOV_MAX) return -EINVAL;
  RingOperation operation = transfer(*core_, kRead, file, iov);
  operation.offset = offset;
  return run(co, operation);
}

int32_t IoRing::co_writev(Co& co, RingFile file, std::span<const iovec> iov, uint64_t offset,
                          int rw_flags) {
  if (iov.size() > IOV_MAX) return -EINVAL;
  RingOperation operation = transfer(*core_, kWrite, file, iov);
  operation.offset = offset;
  operation.operation_flags = static_cast<uint32_t>(rw_flags);
  return run(co, operation);
}

int32_t IoRing::co_fsync(Co& co, RingFile file, FsyncKind kind) {
  RingOperation operation = on_file(IORING_OP_FSYNC, file);
  if (kind == FsyncKind::kDataOnly) operation.operation_flags = IORING_FSYNC_DATASYNC;
  return run(co, operation);
}

int32_t IoRing::co_fallocate(Co& co, RingFile file, int mode, uint64_t offset, uint64_t length) {
  RingOperation operation = on_file(IORING_OP_FALLOCATE, file);
  operation.address = length;  // where this operation has it
  operation.length = static_cast<uint32_t>(mode);
  operation.offset = offset;
  return run(co, operation);
}

int32_t IoRing::co_nop(Co& co) { return run(co, {.opcode = IORING_OP_NOP}); }

Result<RingFile> IoRing::register_file(int fd) {
  if (::fcntl(fd, F_GETFD) < 0) return fail_errno(errno, "cannot register descriptor {}", fd);
  const int slot = TRY(core_->add_file(fd));
  if (slot == internal::RingCore::kNoSlot) return RingFile{fd, RingFile::Kind::kDescriptor};
  return RingFile{slot, RingFile::Kind::kSlot};
}

void IoRing::unregister_file(RingFile file) {
  if (file.kind == RingFile::Kind::kSlot) core_->remove_file(file.number);
}

void IoRing::cancel_file(RingFile file) { core_->cancel(file.number, entry_flags(file)); }
void IoRing::cancel_all() { core_->cancel(-1, 0); }
size_t IoRing::in_flight() const noexcept { return core_->in_flight(); }

IoRing::Counters IoRing::counters() const noexcept {
  const internal::RingCore::Counters& c = core_->counters();
  return {
      .enters = c.enters, .requests = c.requests, .queued = c.queued, .registered = c.registered};
}

}  // namespace rhea
