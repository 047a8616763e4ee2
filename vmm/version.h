// What this build calls itself.
#pragma once

#include <string_view>

namespace rhea::vmm {

/// Rhea's own version, "0.1.0".
std::string_view version() noexcept;

/// The release of QEMU whose command line, QMP and guest-visible machine Rhea follows.
inline constexpr int kQemuMajor = 7, kQemuMinor = 2, kQemuMicro = 0;

}  // namespace rhea::vmm
