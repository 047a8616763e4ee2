// The PVH loader on any bytes.
#include <span>

#include "tests/fuzz/boot_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  rhea::vmm::test::fuzz_loader({data, size});
  return 0;
}
