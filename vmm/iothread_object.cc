#include "vmm/iothread_object.h"

#include <algorithm>
#include <array>
#include <limits>

#include "util/check.h"

namespace rhea::vmm {
namespace {

using Polling = IoThreadObject::Polling;

constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();

BusyPollParams busy_poll(const Polling& polling) {
  // Growing by more than 2^32 is to reach the longest span at once; so is shrinking to nothing.
  const auto factor = [](uint64_t value) {
    return static_cast<uint32_t>(std::min<uint64_t>(value, std::numeric_limits<uint32_t>::max()));
  };
  BusyPollParams params{.longest = Nanoseconds(static_cast<int64_t>(polling.max_ns))};
  if (polling.grow != 0) params.grow = factor(polling.grow);
  params.shrink = factor(polling.shrink);
  return params;
}

template <uint64_t Polling::* Field>
ReplyJson get(const UserObject& object) {
  return static_cast<const IoThreadObject&>(object).polling().*Field;
}

template <uint64_t Polling::* Field>
Result<void> set(UserObject& object, const Json& value);

constexpr std::array kProperties{
    ObjectProperty{"poll-grow", QmpType::kInteger, get<&Polling::grow>, set<&Polling::grow>},
    ObjectProperty{"poll-max-ns", QmpType::kInteger, get<&Polling::max_ns>, set<&Polling::max_ns>},
    ObjectProperty{"poll-shrink", QmpType::kInteger, get<&Polling::shrink>, set<&Polling::shrink>},
};

template <uint64_t Polling::* Field>
Result<void> set(UserObject& object, const Json& value) {
  const bool negative = value.is_number_integer() && !value.is_number_unsigned();
  if (negative || value.get<uint64_t>() > kMost) {
    const auto row = std::ranges::find(kProperties, &set<Field>, &ObjectProperty::set);
    return fail(ErrorKind::kInvalidArgument, "{} value must be in range [0, {}]", row->name, kMost);
  }
  auto& iothread = static_cast<IoThreadObject&>(object);
  Polling polling = iothread.polling();
  polling.*Field = value.get<uint64_t>();
  iothread.set_polling(polling);
  return ok();
}

Result<Polling> take_polling(OptionReader& options) {
  Polling polling;
  polling.max_ns = TRY(options.take_uint("poll-max-ns", 0, kMost)).value_or(polling.max_ns);
  polling.grow = TRY(options.take_uint("poll-grow", 0, kMost)).value_or(polling.grow);
  polling.shrink = TRY(options.take_uint("poll-shrink", 0, kMost)).value_or(polling.shrink);
  return polling;
}

}  // namespace

std::span<const ObjectProperty> IoThreadObject::properties() { return kProperties; }

Result<std::unique_ptr<UserObject>> IoThreadObject::create(Gs&, block::Graph&,
                                                           const std::string& id,
                                                           OptionReader& options) {
  const Polling polling = TRY(take_polling(options));
  auto thread = TRY(IOThread::create("IO " + id, busy_poll(polling)));
  std::unique_ptr<IoThreadObject> object(new IoThreadObject(std::move(thread), polling));
  object->block_ = TRY(block::BlockContext::create(object->context()));
  return std::unique_ptr<UserObject>(std::move(object));
}

IoThreadObject::~IoThreadObject() {
  RHEA_CHECK(users_.empty(), "an iothread goes while {} uses it", users_.front());
}

void IoThreadObject::set_polling(const Polling& polling) {
  polling_ = polling;
  AioContext& here = context();
  here.post([&here, params = busy_poll(polling)] { here.set_busy_poll(params); });
}

IoThreadUse::IoThreadUse(IoThreadObject& iothread, std::string user)
    : iothread_(&iothread), user_(std::move(user)) {
  iothread_->users_.push_back(user_);
}

IoThreadUse::~IoThreadUse() {
  if (iothread_ == nullptr) return;
  const auto at = std::ranges::find(iothread_->users_, user_);
  RHEA_CHECK(at != iothread_->users_.end());
  iothread_->users_.erase(at);
}

}  // namespace rhea::vmm
