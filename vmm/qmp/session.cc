#include "vmm/qmp/session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "util/bql.h"
#include "util/log.h"

namespace rhea::vmm {

namespace {

constexpr std::string_view kLineEnd = "\r\n";  // QEMU's; libvirt waits for ever without the CR

QmpError generic_error(std::string description) {
  return QmpError{.description = std::move(description)};
}

/// What is wrong with the request itself, before anyone asks what the command is.
std::optional<QmpError> check_request(const Json& request) {
  if (!request.is_object()) return generic_error("QMP input must be a JSON object");
  for (const auto& [name, value] : request.items()) {
    if (name == "id") continue;
    if (name == "execute") {
      if (!value.is_string()) return generic_error("QMP input member 'execute' must be a string");
    } else if (name == "arguments") {
      if (!value.is_object())
        return generic_error("QMP input member 'arguments' must be an object");
    } else {
      return generic_error(fmt::format("QMP input member '{}' is unexpected", name));
    }
  }
  if (!request.contains("execute")) return generic_error("QMP input lacks member 'execute'");
  return std::nullopt;
}

QmpError not_found(std::string description) {
  return QmpError{QmpErrorClass::kCommandNotFound, std::move(description)};
}

}  // namespace

std::string qmp_event_line(std::string_view name, const ReplyJson& data) {
  using std::chrono::microseconds;
  const auto now =
      std::chrono::duration_cast<microseconds>(std::chrono::system_clock::now().time_since_epoch());
  ReplyJson event;
  event["timestamp"] = {{"seconds", now.count() / 1'000'000},
                        {"microseconds", now.count() % 1'000'000}};
  event["event"] = name;
  if (!data.is_null()) event["data"] = data;
  std::string line;
  append_json(line, event);
  return line.append(kLineEnd);
}

QmpSession::QmpSession(AioContext& context, const QmpCommandTable& commands,
                       devices::CharBackend& backend, std::string greeting, const QmpLimits& limits)
    : commands_(commands),
      backend_(backend),
      greeting_(std::move(greeting)),
      limits_(limits),
      more_(context, [this] { serve(); }) {
  backend_.attach(this);
}

QmpSession::~QmpSession() { backend_.attach(nullptr); }

void QmpSession::event(devices::CharEvent event) {
  bql.assert_held();
  switch (event) {
    case devices::CharEvent::kOpened:
      return start();
    case devices::CharEvent::kClosed:
      phase_ = Phase::kNoClient;
      break;
    case devices::CharEvent::kBreak:
      return;
  }
  input_ = {};
  output_ = {};
  framer_.reset();
  fds_.drop_waiting();
  more_.cancel();
}

void QmpSession::start() {
  phase_ = Phase::kNegotiation;
  input_.clear();
  output_.clear();
  framer_.reset();
  dropped_events_ = 0;
  send(greeting_);
}

bool QmpSession::may_serve() const {
  return phase_ != Phase::kNoClient && output_.size() < limits_.output_bytes;
}

size_t QmpSession::input_room() const {
  // Nothing is read ahead of what is not served yet: the end of a stream, which takes the unserved
  // with it, shows only behind the last command.
  return may_serve() && input_.empty() ? limits_.input_bytes : 0;
}

size_t QmpSession::can_receive() {
  const size_t room = input_room();
  if (room == 0) backend_waits_ = true;
  return room;
}

void QmpSession::receive(std::span<const std::byte> data) {
  bql.assert_held();
  input_.append(reinterpret_cast<const char*>(data.data()), data.size());
  serve();
}

void QmpSession::receive_fds(std::vector<Fd> fds) {
  bql.assert_held();
  fds_.arrive(std::move(fds));
}

/// Serves what was received, up to a turn's worth; the rest in a later turn of the loop.
void QmpSession::serve() {
  bql.assert_held();
  report_dropped_events();
  serving_ = true;
  size_t consumed = 0;
  for (size_t n = 0; n < limits_.commands_per_turn && consumed < input_.size() && may_serve();) {
    std::optional<JsonFramer::Frame> frame;
    consumed += framer_.feed(std::string_view(input_).substr(consumed), frame);
    if (!frame.has_value()) continue;
    handle(*frame);
    ++n;
  }
  serving_ = false;
  input_.erase(0, consumed);
  flush();
  if (!input_.empty() && may_serve()) more_.schedule();
  if (backend_waits_ && input_room() > 0) {
    backend_waits_ = false;
    backend_.accept_input();
  }
}

void QmpSession::handle(const JsonFramer::Frame& frame) {
  if (!frame.has_value()) return reply(generic_error(frame.error()), nullptr);
  const auto request = parse_json(*frame);
  if (!request.has_value()) return reply(generic_error(request.error()), nullptr);
  const bool has_id = request->is_object() && request->contains("id");
  reply(dispatch(*request), has_id ? &request->at("id") : nullptr);
}

QmpResult QmpSession::dispatch(const Json& request) {
  if (auto error = check_request(request)) return *std::move(error);
  const auto& name = request["execute"].get_ref<const std::string&>();
  static const Json kNoArguments = Json::object();
  const auto found = request.find("arguments");
  const Json& arguments = found == request.end() ? kNoArguments : *found;
  if (name == "qmp_capabilities") return negotiate(arguments);
  if (phase_ == Phase::kNegotiation) {
    return not_found("Expecting capabilities negotiation with 'qmp_capabilities'");
  }
  const QmpCommand* command = commands_.find(name);
  if (command == nullptr) {
    return not_found(fmt::format("The command {} has not been found", name));
  }
  RHEA_TRACE(kVmm, "qmp {}", name);
  return command->run(arguments, fds_);
}

QmpResult QmpSession::negotiate(const Json& arguments) {
  if (phase_ == Phase::kCommands) {
    return not_found("Capabilities negotiation is already complete, command ignored");
  }
  const std::vector<QmpArgument> schema{{"enable", QmpType::kArray, QmpPresence::kOptional}};
  if (auto error = check_arguments(schema, arguments)) return *std::move(error);
  const auto enable = arguments.find("enable");
  if (enable != arguments.end() && !enable->empty()) {
    const Json& first = enable->front();
    return generic_error(
        first.is_string()
            ? fmt::format("Capability {} is not available", first.get_ref<const std::string&>())
            : "Invalid parameter type for 'enable', expected: string");
  }
  phase_ = Phase::kCommands;
  return qmp_done();
}

/// Writes the answer: the id behind "return" but before "error", where QEMU's clients see it.
void QmpSession::reply(const QmpResult& result, const Json* id) {
  std::string line = "{";
  if (result.has_value()) {
    line += "\"return\": ";
    append_json(line, *result);
    if (id != nullptr) append_json(line.append(", \"id\": "), *id);
  } else {
    if (id != nullptr) {
      append_json(line.append("\"id\": "), *id);
      line += ", ";
    }
    line += fmt::format("\"error\": {{\"class\": \"{}\", \"desc\": ",
                        to_string(result.error().error_class));
    append_json_string(line, result.error().description);
    line += '}';
  }
  send(line.append("}").append(kLineEnd));
}

void QmpSession::send_event(std::string_view line) {
  bql.assert_held();
  if (phase_ != Phase::kCommands) return;
  report_dropped_events();
  if (dropped_events_ > 0 || output_.size() + line.size() > limits_.event_bytes) {
    ++dropped_events_;
    return;
  }
  send(line);
}

void QmpSession::send(std::string_view text) {
  // The client went away while a handler ran.
  if (phase_ == Phase::kNoClient) return;
  output_ += text;
  if (!serving_) flush();
}

void QmpSession::flush() {
  if (output_.empty()) return;
  const size_t taken = backend_.write(std::as_bytes(std::span(output_)));
  output_.erase(0, taken);
}

void QmpSession::report_dropped_events() {
  // Not before there is room for more than the notice, or each event would turn into one.
  if (dropped_events_ == 0 || output_.size() > limits_.event_bytes / 2) return;
  const size_t count = std::exchange(dropped_events_, 0);
  send(qmp_event_line("RHEA_EVENTS_DROPPED", {{"count", count}}));
}

void QmpSession::can_write() {
  bql.assert_held();
  flush();
  report_dropped_events();
  // Serving is left to a turn of its own: the backend is in the midst of writing.
  if (may_serve()) more_.schedule();
}

}  // namespace rhea::vmm
