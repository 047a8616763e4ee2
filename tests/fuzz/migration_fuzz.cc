// What comes on the main connection of a migration. The input is a list of orders: frames of any
// kind with any payload and a checksum that fits, those that a real source sends, damaged or not,
// and bytes without a frame. Whatever it is, the machine that waits ends in one of its last states.
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "migration/messages.h"
#include "migration/target.h"
#include "tests/fuzz/input.h"
#include "tests/unit/migration/fake_machine.h"
#include "util/main_loop.h"
#include "util/rcu.h"
#include "util/saved_state.h"

namespace {

using namespace rhea;
using namespace rhea::migration;
using rhea::migration::test::FakeMachine;
using Bytes = std::vector<uint8_t>;

constexpr size_t kMostBytes = 128 << 10;  // what a socket takes without a reader

class Waiting final : public TargetObserver {
 public:
  void target_status(Status) override {}
  void target_ended(TargetState state, const std::optional<Error>& why) override {
    const bool good = state == TargetState::kRunning || state == TargetState::kArrived;
    RHEA_CHECK(good != why.has_value(), "{}: {}", to_string(state), why ? why->message() : "");
    over = true;
  }
  bool over = false;
};

/// What all inputs share: a loop is dear.
struct World {
  // Unchecked: the destructor gives the BQL back.
  World() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop = MUST(MainLoop::create());
  }
  // Unchecked: the constructor took the BQL.
  ~World() NO_THREAD_SAFETY_ANALYSIS {
    loop.reset();
    bql.unlock();
  }
  RcuThread rcu_thread;
  std::unique_ptr<MainLoop> loop;
};

Bytes take(rhea::test::Input& input, size_t most) {
  const size_t low = input.byte(), high = input.byte();
  Bytes bytes(std::min(low | high << 8, most));
  for (uint8_t& byte : bytes) byte = input.byte();
  return bytes;
}

void append(Bytes& stream, const Bytes& more) {
  if (stream.size() + more.size() <= kMostBytes) {
    stream.insert(stream.end(), more.begin(), more.end());
  }
}

/// A payload with up to three bytes changed: the frame's checksum is that of the result.
Bytes framed(rhea::test::Input& input, FrameKind kind, Bytes payload) {
  for (unsigned changes = input.byte() % 4; changes != 0 && !payload.empty(); --changes) {
    payload[input.word() % payload.size()] = input.byte();
  }
  return encode_frame(kind, payload);
}

Bytes pages(rhea::test::Input& input) {
  const uint8_t normal = input.byte() % 4, zero = input.byte() % 4;
  Bytes payload = {input.byte(), 0, 0, 0, normal, 0, zero, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  for (int i = 0; i < normal + zero; ++i) {
    const uint32_t page = input.word() % (FakeMachine::kPages + 8);
    for (int shift = 0; shift < 32; shift += 8)
      payload.push_back(static_cast<uint8_t>(page >> shift));
  }
  Bytes frame = framed(input, FrameKind::kPages, std::move(payload));
  frame.resize(frame.size() + normal * memory::kDirtyPageBytes, input.byte());
  return frame;
}

Bytes order(rhea::test::Input& input, const FakeMachine& machine) {
  static constexpr std::array kKinds = {FrameKind::kHello,   FrameKind::kPages,  FrameKind::kSync,
                                        FrameKind::kDevice,  FrameKind::kEnd,    FrameKind::kFail,
                                        FrameKind::kWelcome, FrameKind::kRefused};
  static constexpr std::array kBare = {FrameKind::kReleased, FrameKind::kGo, FrameKind::kReady,
                                       FrameKind::kAck};
  const auto nth = [&](size_t index) { return machine.info.devices[index % 3].path; };
  switch (input.byte() % 8) {
    case 0:
      return framed(input, FrameKind::kHello,
                    encode_state(Hello{machine.info, input.byte() % 2U, 7}));
    case 1:
      return pages(input);
    case 2:
      return framed(input, FrameKind::kSync, encode_state(Sync{input.word(), 1}));
    case 3:
      return framed(input, FrameKind::kDevice,
                    encode_state(DeviceState{nth(input.byte()), take(input, 64)}));
    case 4:
      return framed(input, FrameKind::kEnd,
                    encode_state(End{(input.byte() & 1) != 0, input.byte(), 3}));
    case 5:
      return encode_frame(input.pick(kBare), {});
    case 6:
      return encode_frame(input.pick(kKinds), take(input, 4096));
    default:
      return take(input, 4096);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  bql.assert_held();
  rhea::migration::test::Outside outside;
  FakeMachine machine("target", outside);
  Bytes stream;
  rhea::test::Input input({data, size});
  while (!input.empty()) append(stream, order(input, machine));

  int ends[2];
  RHEA_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  const Fd ours(ends[0]);
  auto cancel = MUST(Cancel::create());
  auto channel = MUST(Channel::create(Fd(ends[1]), cancel));
  Waiting waiting;
  const auto target = MUST(Target::start({world.loop->service(), machine, waiting},
                                         std::move(channel), std::move(cancel), {}));
  MUST(write_all(ours.get(), std::as_bytes(std::span(stream))));
  ::shutdown(ours.get(), SHUT_WR);
  while (!waiting.over) world.loop->turn();
  return 0;
}
