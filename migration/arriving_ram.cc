#include "migration/arriving_ram.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "memory/holes.h"
#include "migration/zero_page.h"

// glibc 2.36 has the calls but not yet the names.
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace rhea::migration {
namespace {

static_assert(kPageBytes == memory::kDirtyPageBytes);

Result<void> populate(std::byte* begin, size_t bytes, int advice) {
  int result = 0;
  do {
    result = ::madvise(begin, bytes, advice);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0 || errno == EINVAL) return ok();  // kernels before 5.14 do not know it
  const int os_errno = errno;
  return Error(ErrorKind::kResource,
               fmt::format("the host has no memory for {} bytes of guest RAM", bytes), os_errno);
}

bool is_zero(const std::byte* page) {
  return is_zero_page(std::span<const std::byte, kPageBytes>(page, kPageBytes));
}

}  // namespace

std::vector<RamView> arriving_views(const std::vector<std::shared_ptr<memory::RamBlock>>& blocks) {
  std::vector<RamView> views;
  for (const auto& block : blocks) {
    RamView& view = views.emplace_back(ram_view(*block));
    auto holes = memory::Holes::of(*block);
    if (!holes) continue;
    view.content = RamView::Content::kFresh;
    view.touched.resize(view.pages());
    for (uint64_t page = 0; page < view.pages(); ++page)
      view.touched[page] = !holes->contains(page);
  }
  return views;
}

bool ArrivingRam::all_written(uint32_t block, uint32_t first, uint32_t count) const {
  for (uint32_t i = first; i < first + count; ++i) {
    if (!written_.test(block, i)) return false;
  }
  return true;
}

Result<void> ArrivingRam::make_room(uint32_t block, uint32_t first, uint32_t count) {
  if (all_written(block, first, count)) return ok();
  TRY(populate(page(block, first), count * kPageBytes, MADV_POPULATE_WRITE));
  for (uint32_t i = first; i < first + count; ++i) written_.set(block, i);
  return ok();
}

Result<void> ArrivingRam::clear(uint32_t block, std::span<const le32> pages) {
  for (size_t i = 0, run = 1; i < pages.size(); i += run, run = 1) {
    while (i + run < pages.size() && pages[i + run] == pages[i] + run) ++run;
    TRY(clear_run(block, pages[i], static_cast<uint32_t>(run)));
  }
  return ok();
}

Result<void> ArrivingRam::clear_run(uint32_t block, uint32_t first, uint32_t count) {
  const bool known = ram_[block].content == RamView::Content::kFresh;
  if (!known && !all_written(block, first, count)) {
    TRY(populate(page(block, first), count * kPageBytes, MADV_POPULATE_READ));
  }
  for (uint32_t i = first; i < first + count; ++i) {
    std::byte* const bytes = page(block, i);
    if ((known && !written_.test(block, i)) || is_zero(bytes)) continue;
    // A private page that is still the file's is copied by a store.
    TRY(populate(bytes, kPageBytes, MADV_POPULATE_WRITE));
    std::memset(bytes, 0, kPageBytes);
  }
  return ok();
}

}  // namespace rhea::migration
