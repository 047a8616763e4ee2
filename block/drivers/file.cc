#include "block/drivers/file.h"

#include <fcntl.h>

#include <algorithm>
#include <array>

#include "block/graph.h"
#include "block/node.h"

namespace rhea::block {

using internal::FileTransport;
using internal::HostFile;
using internal::OpenMode;

File::File(internal::HostFileKind kind) : kind_(kind) {}
File::~File() = default;

Result<File::Options> File::take_options(OpenRequest& request) {
  OptionReader& reader = request.options();
  Options options;
  options.filename = TRY(reader.take_required("filename"));
  constexpr std::array<std::string_view, 2> kAio{"io_uring", "threads"};
  const auto aio = TRY(reader.take_choice("aio", kAio));
  if (aio == 1) options.transport = FileTransport::kThreads;
  AioContext& main = request.graph().main_context().aio();
  if (aio == 0 && main.io_ring() == nullptr) {
    return fail(ErrorKind::kUnsupported, "aio=io_uring was specified, but is not available: {}",
                main.io_ring_refusal());
  }
  constexpr std::array<std::string_view, 3> kLocking{"auto", "on", "off"};
  options.locking = TRY(reader.take_choice("locking", kLocking)) != 2;
  options.drop_cache = TRY(reader.take_bool("drop-cache")).value_or(true);
  return options;
}

Result<File::Opened> File::open_file(const Options& options, OpenRequest& request) const {
  NodeOptions& common = request.common();
  OpenMode mode{.writable = !common.read_only, .direct = common.cache_direct};
  auto file = internal::open_host_file(options.filename, mode, kind_);
  if (!file && file.error().kind() == ErrorKind::kPermission && mode.writable &&
      common.auto_read_only) {
    mode.writable = false;
    common.read_only = true;
    file = internal::open_host_file(options.filename, mode, kind_);
  }
  Opened opened;
  opened.file = TRY(std::move(file));
  opened.io = std::make_unique<internal::FileIo>(std::move(opened.file.fd), request.graph().pool(),
                                                 options.transport);
  return opened;
}

Result<void> File::open(Gs&, OpenRequest& request) {
  options_ = TRY(take_options(request));
  opened_ = TRY(open_file(options_, request));
  node_ = &request.node();
  if (options_.locking) lock_.emplace(opened_.io->fd(), options_.filename);
  return ok();
}

/// Writes that nobody has flushed are the page cache's, which outlives us. The locks end here: the
/// kernel closes the file only when every ring has let go of it.
void File::close(Gs&) noexcept {
  if (lock_) lock_->release();
}

/// Another description of the same file takes the place of the one there is.
class File::Reopen final : public ReopenState {
 public:
  Reopen(File& driver, Options options, Opened opened)
      : driver_(driver), options_(std::move(options)), opened_(std::move(opened)) {
    driver_.reopening_ = this;
  }
  ~Reopen() override { driver_.reopening_ = nullptr; }
  int fd() const noexcept { return opened_.io->fd(); }
  void commit(GraphWrite&) noexcept override {
    if (driver_.lock_) driver_.lock_->move_to(opened_.io->fd());
    std::swap(driver_.opened_, opened_);
    driver_.options_ = options_;
    driver_.flush_errno_ = 0;
  }

 private:
  File& driver_;
  Options options_;
  Opened opened_;  // afterwards the old one, which goes when nobody waits for it
};

Result<std::unique_ptr<ReopenState>> File::reopen(Gs&, OpenRequest& request) {
  Options options = TRY(take_options(request));
  for (const auto& [same, name] : {std::pair(options.filename == options_.filename, "filename"),
                                   std::pair(options.locking == options_.locking, "locking")}) {
    if (!same) {
      return fail(ErrorKind::kInvalidArgument, "Cannot change the option '{}'", name);
    }
  }
  Opened opened = TRY(open_file(options, request));
  if (opened.file.mode == opened_.file.mode && options.transport == options_.transport &&
      flush_errno_ == 0) {
    return std::unique_ptr<ReopenState>();
  }
  if (!opened.file.is_same_file(opened_.file)) {
    return fail(ErrorKind::kBusy, "'{}' is another file now", options.filename);
  }
  return std::make_unique<Reopen>(*this, std::move(options), std::move(opened));
}

/// With force-share others may do anything.
Permissions File::locked(const Permissions& needs) const {
  return {.taken = needs.taken, .shared = node_->options().force_share ? Perm::kAll : needs.shared};
}

Result<void> File::prepare_permissions(Gs&, const Permissions& needs) {
  if (!lock_ || !node_->active()) return ok();
  TRY(lock_->prepare(locked(needs)));
  if (reopening_ == nullptr) return ok();
  auto copied = lock_->copy_to(reopening_->fd());
  if (!copied) lock_->abort();
  return copied;
}

void File::commit_permissions(Gs&, const Permissions& needs) noexcept {
  if (lock_ && node_->active()) lock_->commit(locked(needs));
}

void File::abort_permissions(Gs&) noexcept {
  if (lock_) lock_->abort();
}

Result<void> File::prepare_to_activate(Gs&, const Permissions& needs) {
  if (lock_) TRY(lock_->prepare(locked(needs)));
  // Advice: a host that does not take it shares its caches with the others by other means.
  if (options_.drop_cache && !opened_.file.mode.direct) {
    ::posix_fadvise(opened_.io->fd(), 0, 0, POSIX_FADV_DONTNEED);
  }
  return ok();
}

void File::inactivate(Gs&) noexcept {
  if (lock_) lock_->release();
}

Result<uint64_t> File::measure(Gs&) {
  return internal::host_file_length(opened_.file, opened_.io->fd());
}

BlockLimits File::limits(Gs&) const { return opened_.file.limits; }

}  // namespace rhea::block
