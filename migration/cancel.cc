#include "migration/cancel.h"

namespace rhea::migration {

Result<std::shared_ptr<Cancel>> Cancel::create() {
  Fd event = TRY(make_eventfd());
  return std::shared_ptr<Cancel>(new Cancel(std::move(event)));
}

void Cancel::cancel() noexcept {
  if (!cancelled_.exchange(true)) signal_eventfd(event_.get());
}

}  // namespace rhea::migration
