// LineEditor: a line of text as somebody types it on a terminal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace rhea::vmm {

/// Takes keys one by one, says what the terminal is to show, and gives lines: Backspace, Ctrl-U
/// (the whole line) and Ctrl-W (a word) take back, Ctrl-C starts over, Enter ends. What arrow keys
/// and the like send is swallowed. Lines end in CR, LF or both, so that a terminal and a pipe are
/// both right.
///
/// Units: bytes; UTF-8 goes through, and is taken back a character at a time.
/// Invariants: a line has no control characters and at most kMostBytes.
class LineEditor {
 public:
  static constexpr size_t kMostBytes = 4096;

  struct Step {
    std::string echo;                 ///< to show, now
    std::optional<std::string> line;  ///< a line has ended
    bool prompt = false;              ///< a prompt is due, without a line
  };
  Step type(char key);
  void start_over();
  const std::string& line() const noexcept { return line_; }

 private:
  enum class State : uint8_t { kText, kEscape, kSequence };

  Step enter(char key);
  std::string erase(size_t bytes);
  size_t last_character() const;
  size_t last_word() const;

  State state_ = State::kText;
  bool after_cr_ = false;
  std::string line_;
};

}  // namespace rhea::vmm
