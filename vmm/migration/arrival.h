// Arrival: where a machine from another instance is waited for.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "migration/connect.h"
#include "migration/target.h"
#include "util/aio_context.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::vmm {

/// Listens, or reads what was opened, until the first connection brings a machine; connections that
/// follow are that machine's channels. One that is lost before it has said what it brings is gone,
/// with the process: nobody else is waited for.
///
/// Thread: main, service context, BQL held. Owns: the socket, the Target.
class Arrival {
 public:
  /// All outlive it.
  struct Parts {
    AioContext& service;
    migration::Machine& machine;
    migration::TargetObserver& observer;
  };
  /// `ask`: for the options, as the first connection comes. Errors: the address can not be listened
  /// on, or opened.
  static Result<std::unique_ptr<Arrival>> start(const Parts& parts,
                                                const migration::Address& address,
                                                const migration::TakeFd& take_fd,
                                                std::function<migration::TargetOptions()> ask)
      REQUIRES(bql);
  /// Ends it if it goes on.
  ~Arrival();
  Arrival(const Arrival&) = delete;
  Arrival& operator=(const Arrival&) = delete;

  /// Where it can be reached, with the port that the host chose; none if nothing listens.
  std::optional<migration::Address> listens_at() const;
  /// Whether something has come.
  bool begun() const noexcept { return target_ != nullptr; }
  migration::Progress progress() const;

 private:
  Arrival(const Parts& parts, std::function<migration::TargetOptions()> ask)
      : parts_(parts), ask_(std::move(ask)) {}

  Result<void> listen(const migration::Address& address) REQUIRES(bql);
  Result<void> receive(std::unique_ptr<migration::Channel> channel) REQUIRES(bql);
  void accept() REQUIRES(bql);
  void give_up(const Error& why) REQUIRES(bql);

  const Parts parts_;
  const std::function<migration::TargetOptions()> ask_;
  std::shared_ptr<migration::Cancel> cancel_;
  std::unique_ptr<migration::Listener> listener_;
  std::unique_ptr<migration::Target> target_;
  FdWatch watch_;
};

}  // namespace rhea::vmm
