#include "vmm/migration/arrival.h"

#include <utility>

#include "util/log.h"

namespace rhea::vmm {

Result<std::unique_ptr<Arrival>> Arrival::start(const Parts& parts,
                                                const migration::Address& address,
                                                const migration::TakeFd& take_fd,
                                                std::function<migration::TargetOptions()> ask) {
  std::unique_ptr<Arrival> arrival(new Arrival(parts, std::move(ask)));
  arrival->cancel_ = TRY(migration::Cancel::create());
  if (address.takes_connections()) {
    TRY(arrival->listen(address));
  } else {
    auto channel = TRY(migration::receive_from(address, arrival->cancel_, take_fd));
    TRY(arrival->receive(std::move(channel)));
  }
  return arrival;
}

Arrival::~Arrival() {
  bql.assert_held();
  watch_ = FdWatch();
  target_.reset();
}

Result<void> Arrival::listen(const migration::Address& address) {
  listener_ = TRY(migration::Listener::create(address));
  watch_ = TRY(parts_.service.watch(listener_->fd(), FdEvents::kRead, [this](FdEvents) {
    bql.assert_held();
    accept();
  }));
  return ok();
}

void Arrival::accept() {
  auto channel = listener_->accept(cancel_);
  if (!channel) return give_up(channel.error());
  if (*channel == nullptr) return;
  if (target_ != nullptr) return target_->add_channel(*std::move(channel));
  if (const auto received = receive(*std::move(channel)); !received) give_up(received.error());
}

/// No descriptor is free, or no thread: it would be so again at once.
void Arrival::give_up(const Error& why) {
  watch_ = FdWatch();
  if (target_ != nullptr) {
    RHEA_LOG(kVmm, kError, "A channel of the migration can not be taken: {}", why.message());
    cancel_->cancel();
    return;
  }
  parts_.observer.target_status(migration::Status::kFailed);
  parts_.observer.target_ended(migration::TargetState::kGone, why);
}

Result<void> Arrival::receive(std::unique_ptr<migration::Channel> channel) {
  target_ = TRY(migration::Target::start(
      {.service = parts_.service, .machine = parts_.machine, .observer = parts_.observer},
      std::move(channel), cancel_, ask_()));
  return ok();
}

std::optional<migration::Address> Arrival::listens_at() const {
  if (listener_ == nullptr) return std::nullopt;
  return listener_->address();
}

migration::Progress Arrival::progress() const {
  if (target_ != nullptr) return target_->progress();
  migration::Progress waiting;
  waiting.status = migration::Status::kSetup;
  return waiting;
}

}  // namespace rhea::vmm
