#include "vmm/version.h"

namespace rhea::vmm {

std::string_view version() noexcept { return RHEA_VERSION; }

}  // namespace rhea::vmm
