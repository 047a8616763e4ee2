#include "vmm/hmp/session.h"

#include <utility>

#include "util/bql.h"

namespace rhea::vmm {

HmpSession::HmpSession(AioContext& context, const HumanMonitor& monitor,
                       devices::CharBackend& backend, std::string greeting)
    : monitor_(monitor),
      backend_(backend),
      greeting_(std::move(greeting)),
      more_(context, [this] { serve(); }) {
  backend_.attach(this);
}

HmpSession::~HmpSession() { backend_.attach(nullptr); }

void HmpSession::event(devices::CharEvent event) {
  bql.assert_held();
  if (event == devices::CharEvent::kBreak) return;
  has_client_ = event == devices::CharEvent::kOpened;
  input_.clear();
  output_.clear();
  editor_.start_over();
  more_.cancel();
  if (!has_client_) return;
  print(greeting_ + "\n");
  print(kPrompt);
  flush();
}

size_t HmpSession::can_receive() {
  const bool free = has_client_ && input_.empty() && output_.empty();
  backend_waits_ = backend_waits_ || !free;
  return free ? kInputBytes : 0;
}

void HmpSession::receive(std::span<const std::byte> data) {
  bql.assert_held();
  input_.append(reinterpret_cast<const char*>(data.data()), data.size());
  serve();
}

/// Takes keys up to the end of a line, and runs that.
void HmpSession::serve() {
  bql.assert_held();
  size_t taken = 0;
  bool ran = false;
  while (!ran && taken < input_.size() && output_.size() < LineEditor::kMostBytes) {
    const LineEditor::Step step = editor_.type(input_[taken++]);
    output_ += step.echo;
    if (step.line) print(monitor_.run(*step.line));
    ran = step.line.has_value();
    // The client may have gone while the command ran, with its input.
    if (!has_client_) return;
    if (ran || step.prompt) print(kPrompt);
  }
  input_.erase(0, taken);
  flush();
  if (!input_.empty() && output_.empty()) more_.schedule();
  if (backend_waits_ && input_.empty() && output_.empty()) {
    backend_waits_ = false;
    backend_.accept_input();
  }
}

/// A terminal wants a carriage return, too.
void HmpSession::print(std::string_view text) {
  for (const char c : text) {
    if (c == '\n') output_ += '\r';
    output_ += c;
  }
}

void HmpSession::flush() {
  if (output_.empty()) return;
  output_.erase(0, backend_.write(std::as_bytes(std::span(output_))));
}

/// The next command has a turn of its own: the backend is in the midst of writing.
void HmpSession::can_write() {
  bql.assert_held();
  flush();
  if (output_.empty()) more_.schedule();
}

}  // namespace rhea::vmm
