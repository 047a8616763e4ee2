// -incoming: where a machine from another instance is waited for.
#include "migration/address.h"
#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {

Result<void> on_incoming(Draft& draft, const Given& given) {
  if (given.value != "defer") TRY(migration::parse_address(given.value));
  draft.config.incoming = given.value;
  return ok();
}

}  // namespace rhea::vmm::cli
