// is_zero_page(): most of a fresh guest's memory need not travel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace rhea::migration {

/// Pages of a migration stream, whatever the host backs a block with: what dirty logs count in.
inline constexpr size_t kPageBytes = 4096;

/// Whether all of `page` reads as zero. The guest may store meanwhile: then the answer was right
/// for some mix of old and new, and the page is dirty again (see multifd_packet.h).
bool is_zero_page(std::span<const std::byte, kPageBytes> page) noexcept;

namespace internal {

/// The two ways in which is_zero_page() may go, for tests.
bool is_zero_by_words(const std::byte* page) noexcept;
/// Only where has_avx2().
bool is_zero_by_avx2(const std::byte* page) noexcept;
bool has_avx2() noexcept;

}  // namespace internal
}  // namespace rhea::migration
