#include "migration/zero_page.h"

#include <cstring>

#include "util/check.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace rhea::migration {
namespace internal {

bool is_zero_by_words(const std::byte* page) noexcept {
  constexpr size_t kStep = 8;  // words between two looks at the sum
  for (size_t at = 0; at < kPageBytes; at += kStep * sizeof(uint64_t)) {
    uint64_t words[kStep];
    std::memcpy(words, page + at, sizeof words);
    uint64_t any = 0;
    for (uint64_t word : words) any |= word;
    if (any != 0) return false;
  }
  return true;
}

#ifdef __x86_64__

bool has_avx2() noexcept { return __builtin_cpu_supports("avx2") != 0; }

__attribute__((target("avx2"))) bool is_zero_by_avx2(const std::byte* page) noexcept {
  constexpr size_t kLane = sizeof(__m256i);
  constexpr size_t kStep = 8 * kLane;  // between two looks: a page that holds data ends early
  for (size_t at = 0; at < kPageBytes; at += kStep) {
    __m256i any = _mm256_setzero_si256();
    for (size_t lane = 0; lane < kStep; lane += kLane) {
      const auto* from = reinterpret_cast<const __m256i_u*>(page + at + lane);
      any = _mm256_or_si256(any, _mm256_loadu_si256(from));
    }
    if (_mm256_testz_si256(any, any) == 0) return false;
  }
  return true;
}

#else

bool has_avx2() noexcept { return false; }
bool is_zero_by_avx2(const std::byte*) noexcept { RHEA_UNREACHABLE("no AVX2 here"); }

#endif

}  // namespace internal

bool is_zero_page(std::span<const std::byte, kPageBytes> page) noexcept {
  static const bool avx2 = internal::has_avx2();
  return avx2 ? internal::is_zero_by_avx2(page.data()) : internal::is_zero_by_words(page.data());
}

}  // namespace rhea::migration
