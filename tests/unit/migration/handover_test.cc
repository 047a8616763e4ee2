// Walks both sides of the hand-over through every order of messages, losses, deaths and commands.
#include "migration/handover.h"

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace rhea::migration;

namespace {

enum class Message : uint8_t { kReady, kReleased, kAck, kGo, kRefused };
enum class Holder : uint8_t { kNobody, kSource, kTarget, kThird };
using Queue = std::vector<Message>;

struct Tables {
  std::function<SourceStep(SourceState, SourceEvent)> source = source_step;
  std::function<TargetStep(TargetState, TargetEvent, TakeOver)> target = target_step;
};

/// What is walked through.
struct Setting {
  TakeOver how = TakeOver::kLockAndRun;
  bool disks = true;      // images that can be locked: without, an operator's `cont` is not checked
  bool stranger = false;  // a third process may take the locks when they are free, and keeps them
  bool patient = true;    // taking the locks back is given up only because of that third one
  unsigned faults = 1;
};

/// Both sides, the link between them, and who holds the locks.
struct World {
  SourceState source = SourceState::kSent;
  TargetState target = TargetState::kLoading;
  Holder holder = Holder::kSource;
  Queue to_source, to_target;
  bool source_alive = true, target_alive = true;
  bool source_open = true, target_open = true;  // their ends of the link
  bool broken = false;                          // nothing more gets across
  bool source_runs = false, target_runs = false;
  bool source_retakes = false, target_takes = false;
  bool target_loads = true;
  bool acked = false;    // the target once sent ACK
  bool by_hand = false;  // a person said `cont`
  bool came = false;     // the stranger did
  unsigned faults = 0;

  auto key() const {
    return std::tie(source, target, holder, to_source, to_target, source_alive, target_alive,
                    source_open, target_open, broken, source_runs, target_runs, source_retakes,
                    target_takes, target_loads, acked, by_hand, came, faults);
  }
  bool operator<(const World& other) const { return key() < other.key(); }
};

std::string text(const World& w) {
  static constexpr const char* kHolders[] = {"nobody", "source", "target", "a third"};
  return fmt::format("source {}{}{}, target {}{}{}, {} holds the locks, {} faults",
                     to_string(w.source), w.source_runs ? " and runs" : "",
                     w.source_alive ? "" : " (dead)", to_string(w.target),
                     w.target_runs ? " and runs" : "", w.target_alive ? "" : " (dead)",
                     kHolders[static_cast<unsigned>(w.holder)], w.faults);
}

class Walk {
 public:
  Walk(const Setting& setting, Tables tables) : setting_(setting), tables_(std::move(tables)) {}

  /// What is wrong somewhere, if anything is.
  std::optional<std::string> find_violation() {
    add(World{});
    while (!todo_.empty() && !violation_) {
      const World world = std::move(todo_.front());
      todo_.pop_front();
      const size_t before = moves_;
      go_on(world);
      if (moves_ == before) check_end(world);
      interfere(world);
    }
    return violation_;
  }
  size_t worlds() const { return seen_.size(); }

 private:
  void wrong(const World& world, std::string_view what) {
    if (!violation_) violation_ = fmt::format("{}: {}", what, text(world));
  }

  void add(World world) {
    check(world);
    if (seen_.insert(world).second) todo_.push_back(std::move(world));
  }

  // What holds always.
  void check(const World& w) {
    if (w.source_runs && w.target_runs) wrong(w, "both run");
    if (!setting_.disks) return;
    if (w.source_runs && w.holder != Holder::kSource) wrong(w, "the source runs without locks");
    if (w.target_runs && w.holder != Holder::kTarget) wrong(w, "the target runs without locks");
  }

  // What holds when nothing more happens by itself.
  void check_end(const World& w) {
    if (w.by_hand || !setting_.patient) return;
    const bool arrived = w.target == TargetState::kArrived;
    if (w.faults == 0 && !w.came && !w.target_runs && !arrived) wrong(w, "it did not arrive");
    if (w.source_runs || w.target_runs || arrived) return;
    // Nobody runs. One of the two must be ready for a person's `cont`, unless the copy is lost.
    const bool lockable = w.holder == Holder::kNobody || w.came;
    const bool target_waits = w.target_alive && w.target == TargetState::kUnconfirmed;
    const bool source_waits = w.source_alive && (w.source == SourceState::kCommitted ||
                                                 (w.source == SourceState::kLocked && w.came));
    const bool pulled_plug = !w.source_alive && !w.acked;
    if (w.faults <= 1 && !pulled_plug && !(lockable && (target_waits || source_waits)))
      wrong(w, "it runs nowhere, and nobody can help");
    if (w.holder == Holder::kSource || w.holder == Holder::kTarget)
      wrong(w, "one that does not run holds the locks");
  }

  // What each side does by itself.
  void go_on(const World& w) {
    if (w.target_alive && w.target_loads) load(w);
    if (w.target_alive && w.target_open && !w.to_target.empty()) deliver_to_target(w);
    if (w.source_alive && w.source_open && !w.to_source.empty()) deliver_to_source(w);
    if (w.target_alive && w.target_takes) take(w);
    if (w.source_alive && w.source_retakes) retake(w);
    // An end that was shut in order delivers what was sent before; a broken link may lose it.
    if (w.source_alive && w.source_open && (w.broken || (!w.target_open && w.to_source.empty())))
      source_event(w, SourceEvent::kLost);
    if (w.target_alive && w.target_open && (w.broken || (!w.source_open && w.to_target.empty())))
      target_event(w, TargetEvent::kLost);
  }

  // What others do to them.
  void interfere(const World& w) {
    if (setting_.disks) by_hand(w);
    if (setting_.stranger && !w.came && w.holder == Holder::kNobody) {
      World next = w;
      next.holder = Holder::kThird;
      next.came = true;
      add(std::move(next));
    }
    if (w.faults >= setting_.faults) return;
    World hurt = w;
    ++hurt.faults;
    if (!w.broken) {
      World next = hurt;
      next.broken = true;
      add(std::move(next));
    }
    if (w.source_alive && w.source_open) source_event(hurt, SourceEvent::kLost);  // out of patience
    if (w.target_alive && w.target_open) target_event(hurt, TargetEvent::kLost);
    if (w.source_alive) source_event(hurt, SourceEvent::kCancel);
    if (w.target_alive && w.target_loads) {
      World next = hurt;
      next.target_loads = false;
      target_event(next, TargetEvent::kInvalid);
    }
    kill(hurt);
  }

  void kill(const World& hurt) {
    if (hurt.source_alive) {
      World next = hurt;
      next.source_alive = next.source_open = next.source_runs = next.source_retakes = false;
      if (next.holder == Holder::kSource) next.holder = Holder::kNobody;
      add(std::move(next));
    }
    if (hurt.target_alive) {
      World next = hurt;
      end_target(next);
      add(std::move(next));
    }
  }

  void by_hand(const World& w) {
    const bool free = w.holder == Holder::kNobody;
    if (free && w.source_alive && !w.source_runs &&
        (w.source == SourceState::kCommitted || w.source == SourceState::kLocked)) {
      World next = w;
      next.by_hand = next.source_runs = true;
      next.holder = Holder::kSource;
      add(std::move(next));
    }
    if (free && w.target_alive && !w.target_runs &&
        (w.target == TargetState::kUnconfirmed || w.target == TargetState::kArrived)) {
      World next = w;
      next.by_hand = next.target_runs = true;
      next.holder = Holder::kTarget;
      add(std::move(next));
    }
  }

  void load(World w) {
    w.target_loads = false;
    target_event(w, TargetEvent::kLoaded);
  }

  void deliver_to_target(World w) {
    const Message message = w.to_target.front();
    w.to_target.erase(w.to_target.begin());
    target_event(w, message == Message::kReleased ? TargetEvent::kReleased : TargetEvent::kGo);
  }

  void deliver_to_source(World w) {
    const Message message = w.to_source.front();
    w.to_source.erase(w.to_source.begin());
    switch (message) {
      case Message::kReady:
        return source_event(w, SourceEvent::kReady);
      case Message::kAck:
        return source_event(w, SourceEvent::kAck);
      default:
        return source_event(w, SourceEvent::kRefused);
    }
  }

  void take(World w) {
    w.target_takes = false;
    const bool free = w.holder == Holder::kNobody || w.holder == Holder::kTarget;
    if (free) w.holder = Holder::kTarget;
    target_event(w, free ? TargetEvent::kTaken : TargetEvent::kNotTaken);
  }

  void retake(const World& w) {
    if (w.holder == Holder::kNobody) {
      World next = w;
      next.source_retakes = false;
      next.holder = Holder::kSource;
      source_event(next, SourceEvent::kTaken);
    } else if (w.holder == Holder::kThird || !setting_.patient) {
      World next = w;
      next.source_retakes = false;
      source_event(next, SourceEvent::kNotTaken);
    }
  }

  void send_to_source(World& w, Message message) const {
    if (!w.broken && w.source_open) w.to_source.push_back(message);
  }
  void send_to_target(World& w, Message message) const {
    if (!w.broken && w.target_open) w.to_target.push_back(message);
  }
  void end_target(World& w) const {
    w.target_alive = w.target_open = w.target_runs = w.target_takes = w.target_loads = false;
    if (w.holder == Holder::kTarget) w.holder = Holder::kNobody;
  }

  void source_event(World w, SourceEvent event) {
    ++moves_;
    if (event == SourceEvent::kLost) {
      w.source_open = false;
      w.to_source.clear();
    }
    const SourceStep step = tables_.source(w.source, event);
    w.source = step.next;
    switch (step.action) {
      case SourceAction::kNothing:
        break;
      case SourceAction::kRelease:
        if (w.holder == Holder::kSource) w.holder = Holder::kNobody;
        send_to_target(w, Message::kReleased);
        break;
      case SourceAction::kGo:
        send_to_target(w, Message::kGo);
        if (w.broken) return source_event(w, SourceEvent::kLost);  // what the call of send says
        w.source_open = false;
        break;
      case SourceAction::kRetake:
        w.source_open = false;
        w.source_retakes = true;
        break;
      case SourceAction::kResume:
        w.source_open = false;
        w.source_runs = true;
        break;
      case SourceAction::kStayPaused:
        break;
    }
    add(std::move(w));
  }

  void target_event(World w, TargetEvent event) {
    ++moves_;
    if (event == TargetEvent::kLost) {
      w.target_open = false;
      w.to_target.clear();
    }
    const TargetStep step = tables_.target(w.target, event, setting_.how);
    w.target = step.next;
    switch (step.action) {
      case TargetAction::kNothing:
        break;
      case TargetAction::kSendReady:
        send_to_source(w, Message::kReady);
        break;
      case TargetAction::kSendAck:
        w.acked = true;
        send_to_source(w, Message::kAck);
        break;
      case TargetAction::kTake:
        w.target_takes = true;
        break;
      case TargetAction::kRun:
        w.target_runs = true;
        break;
      case TargetAction::kArrive:
        break;
      case TargetAction::kGiveUp:
        w.target_open = false;
        if (w.holder == Holder::kTarget) w.holder = Holder::kNobody;
        break;
      case TargetAction::kRefuse:
        send_to_source(w, Message::kRefused);
        end_target(w);
        break;
      case TargetAction::kEnd:
        end_target(w);
        break;
    }
    add(std::move(w));
  }

  const Setting setting_;
  const Tables tables_;
  std::set<World> seen_;
  std::deque<World> todo_;
  std::optional<std::string> violation_;
  size_t moves_ = 0;
};

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const TakeOver how : {TakeOver::kLockAndRun, TakeOver::kLockLate, TakeOver::kArrive})
    for (const bool disks : {true, false})
      for (const bool stranger : {false, true})
        for (const bool patient : {true, false})
          for (const unsigned faults : {0U, 1U, 2U, 3U})
            if (disks || !stranger) all.push_back({how, disks, stranger, patient, faults});
  return all;
}

std::optional<std::string> find_violation(const Tables& tables) {
  for (const Setting& setting : settings())
    if (auto violation = Walk(setting, tables).find_violation()) return violation;
  return std::nullopt;
}

SourceStep with(SourceState state, SourceEvent event, SourceState on, SourceEvent what,
                SourceStep instead) {
  return state == on && event == what ? instead : source_step(state, event);
}

Tables bad_source(SourceState on, SourceEvent what, SourceStep instead) {
  return {.source = [=](SourceState state,
                        SourceEvent event) { return with(state, event, on, what, instead); },
          .target = target_step};
}

Tables bad_target(TargetState on, TargetEvent what, TargetStep instead) {
  return {.source = source_step, .target = [=](TargetState state, TargetEvent event, TakeOver how) {
            return state == on && event == what ? instead : target_step(state, event, how);
          }};
}

}  // namespace

TEST_CASE("Hand-over: never do both run, and after one fault somebody can", "[handover]") {
  size_t worlds = 0;
  for (const Setting& setting : settings()) {
    Walk walk(setting, {});
    const auto violation = walk.find_violation();
    INFO(violation.value_or(""));
    CHECK_FALSE(violation);
    worlds += walk.worlds();
  }
  CHECK(worlds > 1000);  // it went somewhere
}

TEST_CASE("Hand-over: each rule that is broken shows", "[handover]") {
  const auto [name, tables, expected] = GENERATE(table<std::string, Tables, std::string>({
      {"a source resumes after ACK",
       bad_source(SourceState::kCommitted, SourceEvent::kLost,
                  {SourceState::kResumed, SourceAction::kResume}),
       "run"},
      {"a source resumes without its locks",
       bad_source(SourceState::kReleased, SourceEvent::kLost,
                  {SourceState::kResumed, SourceAction::kResume}),
       "without locks"},
      {"a source believes READY to be all",
       bad_source(SourceState::kSent, SourceEvent::kReady,
                  {SourceState::kCommitted, SourceAction::kGo}),
       "it did not arrive"},
      {"a source that is lost in doubt waits for ever",
       bad_source(SourceState::kReleased, SourceEvent::kLost,
                  {SourceState::kReleased, SourceAction::kNothing}),
       "nobody can help"},
      {"a target runs without GO",
       bad_target(TargetState::kAcked, TargetEvent::kLost,
                  {TargetState::kRunning, TargetAction::kRun}),
       "run"},
      {"a target runs as soon as it can",
       bad_target(TargetState::kReady, TargetEvent::kLost,
                  {TargetState::kRunning, TargetAction::kRun}),
       "run"},
      {"a target keeps its locks without GO",
       bad_target(TargetState::kAcked, TargetEvent::kLost,
                  {TargetState::kUnconfirmed, TargetAction::kNothing}),
       "holds the locks"},
      {"a target ends when GO does not come",
       bad_target(TargetState::kAcked, TargetEvent::kLost,
                  {TargetState::kGone, TargetAction::kEnd}),
       "nobody can help"},
      {"a target that cannot lock says ACK",
       bad_target(TargetState::kLocking, TargetEvent::kNotTaken,
                  {TargetState::kAcked, TargetAction::kSendAck}),
       "without locks"},
  }));
  INFO(name);
  const auto violation = find_violation(tables);
  REQUIRE(violation);
  CHECK_THAT(*violation, Catch::Contains(expected));
}

TEST_CASE("Hand-over: what a state does not expect changes nothing or ends it", "[handover]") {
  // A source that is done, and a target that is: for good.
  for (const SourceState state :
       {SourceState::kCommitted, SourceState::kResumed, SourceState::kLocked})
    for (unsigned event = 0; event <= static_cast<unsigned>(SourceEvent::kNotTaken); ++event) {
      const SourceStep step = source_step(state, static_cast<SourceEvent>(event));
      CHECK((step.next == state && step.action == SourceAction::kNothing));
    }
  for (const TargetState state : {TargetState::kRunning, TargetState::kArrived,
                                  TargetState::kUnconfirmed, TargetState::kGone})
    for (unsigned event = 0; event <= static_cast<unsigned>(TargetEvent::kNotTaken); ++event) {
      const TargetStep step =
          target_step(state, static_cast<TargetEvent>(event), TakeOver::kLockAndRun);
      CHECK((step.next == state && step.action == TargetAction::kNothing));
    }
  // Messages out of turn.
  CHECK(source_step(SourceState::kSent, SourceEvent::kAck).action == SourceAction::kResume);
  CHECK(source_step(SourceState::kReleased, SourceEvent::kReady).action == SourceAction::kRetake);
  CHECK(target_step(TargetState::kLoading, TargetEvent::kGo, TakeOver::kLockAndRun).action ==
        TargetAction::kRefuse);
  CHECK(target_step(TargetState::kReady, TargetEvent::kGo, TakeOver::kLockAndRun).next ==
        TargetState::kGone);
  CHECK(target_step(TargetState::kAcked, TargetEvent::kReleased, TakeOver::kLockAndRun).next ==
        TargetState::kUnconfirmed);
}
