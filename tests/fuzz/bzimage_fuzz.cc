// The bzImage loader on any bytes, with the two signatures put in so that they are not in the way.
#include <vector>

#include "tests/fuzz/boot_fuzz.h"

using namespace rhea::vmm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> image(data, data + size);
  if (image.size() >= kBzImageHeadSize) {
    image[0x1fe] = 0x55;
    image[0x1ff] = 0xaa;
    image[0x202] = 'H';
    image[0x203] = 'd';
    image[0x204] = 'r';
    image[0x205] = 'S';
  }
  test::fuzz_loader(image);
  return 0;
}
