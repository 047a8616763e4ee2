#include "vmm/virtio_queues.h"

#include <algorithm>
#include <string>

#include "util/bql.h"

namespace rhea::vmm {
namespace {

/// One element of iothread-vq-mapping: its queues, or a turn in all if it names none.
struct Turn {
  size_t number, of;
};
Result<void> map_queues(DeviceRequest& request, OptionReader& element, const Turn& turn,
                        std::string_view count_property, std::vector<AioContext*>& queues) {
  AioContext* context = TRY(request.use_iothread(TRY(element.take_required("iothread"))));
  const auto listed = TRY(element.take_uints("vqs"));
  TRY(element.finish());
  if (!listed) {
    for (size_t queue = turn.number; queue < queues.size(); queue += turn.of) {
      queues[queue] = context;
    }
    return ok();
  }
  for (const uint64_t queue : *listed) {
    if (queue >= queues.size()) {
      return fail(ErrorKind::kInvalidArgument,
                  "vq index {} for iothread-vq-mapping must be less than {} {}", queue,
                  count_property, queues.size());
    }
    if (queues[queue] != nullptr) {
      return fail(ErrorKind::kInvalidArgument, "cannot assign vq {} to two iothreads", queue);
    }
    queues[queue] = context;
  }
  return ok();
}

Result<void> take_mapping(DeviceRequest& request, std::string_view count_property,
                          std::vector<AioContext*>& queues) {
  auto elements = TRY(request.options().take_objects("iothread-vq-mapping"));
  const size_t with_queues = static_cast<size_t>(
      std::ranges::count_if(elements, [](const OptionReader& e) { return e.has("vqs"); }));
  if (with_queues != 0 && with_queues != elements.size()) {
    return fail(ErrorKind::kInvalidArgument,
                "either all items in iothread-vq-mapping must have vqs or none of them must have "
                "it");
  }
  for (size_t i = 0; i < elements.size(); ++i) {
    const Turn turn{.number = i, .of = elements.size()};
    TRY(map_queues(request, elements[i], turn, count_property, queues));
  }
  for (size_t queue = 0; queue < queues.size(); ++queue) {
    if (queues[queue] != nullptr) continue;
    return fail(ErrorKind::kInvalidArgument,
                "missing vq {} IOThread assignment in "
                "iothread-vq-mapping",
                queue);
  }
  return ok();
}

}  // namespace

Result<void> set_bool(OptionReader& options, std::string_view key, bool& value) {
  if (const auto given = TRY(options.take_bool(key))) value = *given;
  return ok();
}

Result<std::vector<AioContext*>> take_queue_contexts(DeviceRequest& request, size_t count,
                                                     std::string_view count_property) {
  std::vector<AioContext*> queues(count, nullptr);
  if (request.options().has("iothread-vq-mapping")) {
    if (request.options().has("iothread")) {
      return fail(ErrorKind::kInvalidArgument,
                  "iothread and iothread-vq-mapping properties cannot be set at the same time");
    }
    TRY(take_mapping(request, count_property, queues));
    return queues;
  }
  AioContext* context = TRY(request.take_iothread());
  std::ranges::fill(queues, context);
  return queues;
}

RunHooks run_hooks_of(devices::VirtioDevice& device) {
  return {.stopped =
              [&device] {
                bql.assert_held();
                device.machine_stopped();
              },
          .runs =
              [&device] {
                bql.assert_held();
                device.machine_runs();
              }};
}

DiskMove moves_of(DeviceRequest& request, devices::VirtioDevice& device) {
  return {.hold =
              [&device] {
                bql.assert_held();
                return device.hold();
              },
          .move =
              [&device, &request](IoThreadObject* iothread) {
                bql.assert_held();
                AioContext& to =
                    iothread != nullptr ? iothread->context() : request.host().loop.block();
                device.move_queues(std::vector<AioContext*>(device.queues(), &to));
                request.now_uses(iothread);
              },
          .release =
              [&device] {
                bql.assert_held();
                device.release();
              }};
}

}  // namespace rhea::vmm
