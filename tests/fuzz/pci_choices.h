// What a fuzzed guest chooses from: the addresses, registers and values that matter.
#pragma once

#include <array>
#include <cstdint>

#include "tests/fuzz/pci_world.h"
#include "vmm/pc_layout.h"

namespace rhea::test {

inline constexpr uint64_t kSpaceBytes = uint64_t{1} << 52, kIoSpaceBytes = 1 << 16;
inline constexpr uint64_t kLowRamEnd = vmm::pc::kMaxLowRam, kHighRam = vmm::pc::kHighRam.value;
inline constexpr uint64_t kHighRamEnd = kHighRam + PciWorld::kRamBytes - kLowRamEnd;
// A queue's rings, and a request's parts.
inline constexpr uint64_t kRings = 0x10'0000, kBuffers = 0x20'0000;

/// Where BARs are put: over nothing, RAM, each other, what is not there, and where they may not be.
inline constexpr std::array<uint64_t, 32> kPlaces{0,
                                                  0x10,
                                                  0xc000,
                                                  0xcc0,
                                                  0xff00,
                                                  0xffc0,
                                                  0x1'0000,
                                                  0xa'0000,
                                                  kRings,
                                                  0x8000'0000,
                                                  kLowRamEnd - 0x4000,
                                                  kLowRamEnd,
                                                  kLowRamEnd + 0x2000,
                                                  kLowRamEnd + 0x4000,
                                                  0xd000'0000,
                                                  0xe000'0000,
                                                  0xe000'2000,
                                                  0xfec0'0000,
                                                  0xfee0'0000,
                                                  0xf000'0000,
                                                  0xffff'0000,
                                                  0xffff'c000,
                                                  0xffff'ffff,
                                                  kHighRam,
                                                  kHighRamEnd - 0x4000,
                                                  kHighRamEnd,
                                                  uint64_t{1} << 40,
                                                  (uint64_t{1} << 40) + 0x4000,
                                                  kSpaceBytes - 0x4000,
                                                  kSpaceBytes,
                                                  uint64_t{1} << 63,
                                                  UINT64_MAX};
inline constexpr std::array<uint8_t, 32> kOffsets{
    0x00, 0x04, 0x05, 0x06, 0x07, 0x0c, 0x0e, 0x10, 0x13, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x27, 0x28,
    0x2c, 0x30, 0x34, 0x3c, 0x3d, 0x40, 0x58, 0x5c, 0x88, 0x8c, 0x90, 0x94, 0x98, 0x9a, 0x9c, 0xfc};
inline constexpr std::array<uint32_t, 16> kValues{
    0, 1, 2, 3, 4, 6, 7, 11, 15, 0x407, 0x1000, 0x4000, 0x8000, 0xc000, 0xfee0'1000, UINT32_MAX};

}  // namespace rhea::test
