#include "vmm/hmp/line_editor.h"

#include <algorithm>
#include <utility>

namespace rhea::vmm {
namespace {

constexpr char kCtrlC = 0x03, kBackspace = 0x08, kCtrlU = 0x15, kCtrlW = 0x17, kEscape = 0x1b,
               kDelete = 0x7f;

/// All but the first byte of a character in UTF-8.
bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }
bool is_control(char byte) { return static_cast<unsigned char>(byte) < 0x20; }

}  // namespace

void LineEditor::start_over() {
  state_ = State::kText;
  after_cr_ = false;
  line_.clear();
}

LineEditor::Step LineEditor::type(char key) {
  const bool after_cr = std::exchange(after_cr_, false);
  if (state_ == State::kEscape) {
    // [ and O lead sequences; anything else was the key with Alt.
    state_ = key == '[' || key == 'O' ? State::kSequence : State::kText;
    return {};
  }
  if (state_ == State::kSequence) {
    // Parameters, up to a byte from @ to ~. [ECMA-48 5.4]
    if (key >= '@' || is_control(key)) state_ = State::kText;
    return {};
  }
  switch (key) {
    case '\n':
      return after_cr ? Step{} : enter(key);
    case '\r':
      return enter(key);
    case kEscape:
      state_ = State::kEscape;
      return {};
    case kCtrlC:
      line_.clear();
      return {.echo = "^C\r\n", .line = {}, .prompt = true};
    case kCtrlU:
      return {.echo = erase(line_.size()), .line = {}};
    case kCtrlW:
      return {.echo = erase(last_word()), .line = {}};
    case kBackspace:
    case kDelete:
      return {.echo = erase(last_character()), .line = {}};
    default:
      break;
  }
  if (is_control(key)) return {};
  if (line_.size() == kMostBytes) return {.echo = "\a", .line = {}};
  line_ += key;
  return {.echo = std::string(1, key), .line = {}};
}

LineEditor::Step LineEditor::enter(char key) {
  after_cr_ = key == '\r';
  return {.echo = "\r\n", .line = std::exchange(line_, {})};
}

/// Takes bytes off the end, and their characters off the screen.
std::string LineEditor::erase(size_t bytes) {
  const auto from = line_.end() - static_cast<ptrdiff_t>(bytes);
  const auto characters = bytes - static_cast<size_t>(std::count_if(from, line_.end(), continues));
  line_.erase(from, line_.end());
  std::string echo;
  for (size_t i = 0; i < characters; ++i) echo += "\b \b";
  return echo;
}

size_t LineEditor::last_character() const {
  size_t bytes = 0;
  while (bytes < line_.size()) {
    ++bytes;
    if (!continues(line_[line_.size() - bytes])) break;
  }
  return bytes;
}

size_t LineEditor::last_word() const {
  size_t begin = line_.size();
  while (begin > 0 && line_[begin - 1] == ' ') --begin;
  while (begin > 0 && line_[begin - 1] != ' ') --begin;
  return line_.size() - begin;
}

}  // namespace rhea::vmm
