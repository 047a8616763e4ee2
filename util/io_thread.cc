#include "util/io_thread.h"

#include <utility>

#include "util/check.h"
#include "util/one_shot_event.h"
#include "util/thread.h"

namespace rhea {

struct IOThread::Impl {
  void serve(const BusyPollParams& busy_poll) {
    context->rebind_home();
    context->set_busy_poll(busy_poll);
    thread_id = current_thread_id();
    at_home.set();
    while (!stop) context->poll(PollMode::kBlocking);
  }

  std::unique_ptr<AioContext> context;
  OneShotEvent at_home;
  int thread_id = 0;  // constant once at_home is set
  bool stop = false;  // home thread only
  Thread thread;
};

IOThread::IOThread(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<IOThread>> IOThread::create(std::string name,
                                                   const BusyPollParams& busy_poll) {
  auto impl = std::make_unique<Impl>();
  impl->context = TRY(AioContext::create(name));
  impl->thread =
      TRY(Thread::start(std::move(name), [i = impl.get(), busy_poll] { i->serve(busy_poll); }));
  impl->at_home.wait();
  return std::unique_ptr<IOThread>(new IOThread(std::move(impl)));
}

IOThread::~IOThread() {
  RHEA_CHECK(!impl_->context->is_home(), "an iothread would join itself");
  // Posts run in order, so all that came before this one runs first.
  impl_->context->post([this] { impl_->stop = true; });
  impl_->thread.join();
  impl_->context->rebind_home();
}

AioContext& IOThread::context() noexcept { return *impl_->context; }
int IOThread::thread_id() const noexcept { return impl_->thread_id; }
const std::string& IOThread::name() const noexcept { return impl_->context->name(); }

}  // namespace rhea
