#include "vmm/qtest.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "util/log.h"
#include "vmm/qtest_codec.h"

namespace rhea::vmm {
namespace {

using memory::GuestAddr;

constexpr uint64_t kLastPort = 0xffff;
constexpr std::string_view kSeparators = " \t\r";

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> words;
  while (true) {
    const size_t start = line.find_first_not_of(kSeparators);
    if (start == std::string_view::npos) return words;
    line.remove_prefix(start);
    const size_t length = std::min(line.find_first_of(kSeparators), line.size());
    words.push_back(line.substr(0, length));
    line.remove_prefix(length);
  }
}

Result<uint64_t> number(std::string_view word) {
  const auto value = parse_number(word);
  if (!value) {
    return fail(ErrorKind::kInvalidArgument, "'{}' is not a number", word.substr(0, 40));
  }
  return *value;
}

/// The access size that the last letter of a command means.
unsigned size_of(std::string_view command) {
  switch (command.back()) {
    case 'b':
      return 1;
    case 'w':
      return 2;
    case 'l':
      return 4;
    default:
      return 8;
  }
}

Result<uint64_t> sized_value(std::string_view word, unsigned size) {
  const uint64_t value = TRY(number(word));
  if (size < 8 && value >> (8 * size) != 0) {
    return fail(ErrorKind::kInvalidArgument, "{:#x} does not fit into {} byte(s)", value, size);
  }
  return value;
}

Result<GuestAddr> port(std::string_view word) {
  const uint64_t value = TRY(number(word));
  if (value > kLastPort) return fail(ErrorKind::kInvalidArgument, "there is no port {:#x}", value);
  return GuestAddr{value};
}

Result<void> check_range(uint64_t address, uint64_t size) {
  if (size != 0 && address > UINT64_MAX - (size - 1)) {
    return fail(ErrorKind::kInvalidArgument, "{:#x} + {} leaves the address space", address, size);
  }
  return ok();
}

struct Range {
  GuestAddr address;
  size_t size;
};
enum class ZeroSize : uint8_t { kRefused, kAllowed };

Result<Range> range(std::string_view address_word, std::string_view size_word, ZeroSize zero) {
  const uint64_t address = TRY(number(address_word));
  const uint64_t size = TRY(number(size_word));
  if (size > QtestServer::kMaxTransferBytes || (size == 0 && zero == ZeroSize::kRefused)) {
    return fail(ErrorKind::kInvalidArgument, "the size must be 1 to {}, not {}",
                QtestServer::kMaxTransferBytes, size);
  }
  TRY(check_range(address, size));
  return Range{.address = GuestAddr{address}, .size = size};
}

}  // namespace

// --- Commands ---------------------------------------------------------------------------------

struct QtestServer::Command {
  std::string_view name;
  size_t min_arguments;
  size_t max_arguments;
  Result<std::string> (QtestServer::*run)(Words words);  // words[0] is the name
};

const QtestServer::Command* QtestServer::find_command(std::string_view name) {
  using Q = QtestServer;
  static constexpr std::array kCommands{
      Command{"outb", 2, 2, &Q::port_write},
      Command{"outw", 2, 2, &Q::port_write},
      Command{"outl", 2, 2, &Q::port_write},
      Command{"inb", 1, 1, &Q::port_read},
      Command{"inw", 1, 1, &Q::port_read},
      Command{"inl", 1, 1, &Q::port_read},
      Command{"writeb", 2, 2, &Q::memory_store},
      Command{"writew", 2, 2, &Q::memory_store},
      Command{"writel", 2, 2, &Q::memory_store},
      Command{"writeq", 2, 2, &Q::memory_store},
      Command{"readb", 1, 1, &Q::memory_load},
      Command{"readw", 1, 1, &Q::memory_load},
      Command{"readl", 1, 1, &Q::memory_load},
      Command{"readq", 1, 1, &Q::memory_load},
      Command{"write", 3, 3, &Q::memory_write},
      Command{"b64write", 3, 3, &Q::memory_write},
      Command{"read", 2, 2, &Q::memory_read},
      Command{"b64read", 2, 2, &Q::memory_read},
      Command{"memset", 3, 3, &Q::memory_fill},
      Command{"clock_step", 0, 1, &Q::clock_step},
      Command{"clock_set", 1, 1, &Q::clock_set},
      Command{"endianness", 0, 0, &Q::endianness},
      Command{"irq_intercept_in", 1, 1, &Q::intercept},
      Command{"irq_intercept_out", 1, 1, &Q::intercept},
      Command{"set_irq_in", 4, 4, &Q::set_irq_in},
      Command{"module_load", 0, SIZE_MAX, &Q::refuse_module},
  };
  const auto* command = std::ranges::find(kCommands, name, &Command::name);
  return command == kCommands.end() ? nullptr : command;
}

Result<std::string> QtestServer::port_write(Words words) {
  const unsigned size = size_of(words[0]);
  const GuestAddr address = TRY(port(words[1]));
  const uint64_t value = TRY(sized_value(words[2], size));
  machine_.io.store(address, value, size);
  return std::string();
}

Result<std::string> QtestServer::port_read(Words words) {
  const GuestAddr address = TRY(port(words[1]));
  return fmt::format("0x{:04x}", machine_.io.load(address, size_of(words[0])));
}

Result<std::string> QtestServer::memory_store(Words words) {
  const unsigned size = size_of(words[0]);
  const uint64_t address = TRY(number(words[1]));
  const uint64_t value = TRY(sized_value(words[2], size));
  TRY(check_range(address, size));
  machine_.memory.store(GuestAddr{address}, value, size);
  return std::string();
}

Result<std::string> QtestServer::memory_load(Words words) {
  const unsigned size = size_of(words[0]);
  const uint64_t address = TRY(number(words[1]));
  TRY(check_range(address, size));
  return fmt::format("0x{:016x}", machine_.memory.load(GuestAddr{address}, size));
}

Result<std::string> QtestServer::memory_write(Words words) {
  const bool hex = words[0] == "write";
  const auto [address, size] = TRY(range(words[1], words[2], ZeroSize::kRefused));
  auto data = hex ? from_hex(words[3]) : from_base64(words[3]);
  if (!data) {
    return fail(ErrorKind::kInvalidArgument, "the data is not {}",
                hex ? "an even number of hexadecimal digits behind 0x" : "base64");
  }
  if (hex || data->size() > size) data->resize(size);  // hexadecimal is padded with zeros
  std::ignore = machine_.memory.write(address, *data);
  return std::string();
}

Result<std::string> QtestServer::memory_read(Words words) {
  const auto [address, size] = TRY(range(words[1], words[2], ZeroSize::kRefused));
  std::vector<std::byte> data(size);
  std::ignore = machine_.memory.read(address, data);
  return words[0] == "read" ? to_hex(data) : to_base64(data);
}

Result<std::string> QtestServer::memory_fill(Words words) {
  const auto [address, size] = TRY(range(words[1], words[2], ZeroSize::kAllowed));
  const uint64_t value = TRY(sized_value(words[3], 1));
  const std::vector<std::byte> data(size, static_cast<std::byte>(value));
  if (size != 0) std::ignore = machine_.memory.write(address, data);
  return std::string();
}

// Without an argument to the next timer; there is none, the clock stays.
Result<std::string> QtestServer::clock_step(Words words) {
  const Nanoseconds now = machine_.clock.now();
  if (words.size() == 1) {
    const Nanoseconds next = machine_.timers.next_deadline();
    return move_clock(next == Nanoseconds::max() ? now : next);
  }
  const uint64_t step = TRY(number(words[1]));
  if (step > static_cast<uint64_t>((Nanoseconds::max() - now).count()) / 2) {
    return fail(ErrorKind::kInvalidArgument, "the clock can not go forward by {} ns", step);
  }
  return move_clock(now + Nanoseconds(static_cast<int64_t>(step)));
}

Result<std::string> QtestServer::clock_set(Words words) {
  const uint64_t target = TRY(number(words[1]));
  if (target > static_cast<uint64_t>(Nanoseconds::max().count()) / 2) {
    return fail(ErrorKind::kInvalidArgument, "the clock can not go to {} ns", target);
  }
  return move_clock(Nanoseconds(static_cast<int64_t>(target)));
}

Result<std::string> QtestServer::move_clock(Nanoseconds target) {
  machine_.clock.step_to(target, machine_.timers);
  return fmt::format("{}", machine_.clock.now().count());
}

Result<std::string> QtestServer::endianness(Words) { return std::string("little"); }

Result<std::string> QtestServer::intercept(Words words) {
  if (!intercepted_.empty() && intercepted_ != words[1]) {
    return fail(ErrorKind::kBusy, "IRQ intercept already enabled");
  }
  if (words[0] == "irq_intercept_in") {
    TRY(machine_.irqs.intercept_in(words[1], this));
  } else {
    TRY(machine_.irqs.intercept_out(words[1], this));
  }
  intercepted_ = words[1];
  return std::string();
}

Result<std::string> QtestServer::set_irq_in(Words words) {
  const uint64_t line = TRY(number(words[3]));
  const uint64_t level = TRY(number(words[4]));
  TRY(machine_.irqs.set_irq_in(words[1], words[2], line, level != 0));
  return std::string();
}

Result<std::string> QtestServer::refuse_module(Words) {
  return fail(ErrorKind::kUnsupported, "there are no modules to load");
}

// --- Lines ------------------------------------------------------------------------------------

QtestServer::QtestServer(const Machine& machine, devices::CharBackend& backend)
    : machine_(machine), backend_(backend) {
  backend_.attach(this);
}

QtestServer::~QtestServer() {
  bql.assert_held();
  backend_.attach(nullptr);
  stop_intercepting();
}

size_t QtestServer::can_receive() {
  bql.assert_held();
  return output_.size() < kMaxPendingBytes ? 65'536 : 0;
}

void QtestServer::receive(std::span<const std::byte> data) {
  bql.assert_held();
  input_.append(reinterpret_cast<const char*>(data.data()), data.size());
  run_lines();
}

// A client that comes finds a fresh session.
void QtestServer::event(devices::CharEvent event) {
  bql.assert_held();
  if (event == devices::CharEvent::kBreak) return;
  input_.clear();
  output_.clear();
  scanned_ = 0;
  skipping_ = false;
  stop_intercepting();
}

void QtestServer::can_write() {
  bql.assert_held();
  flush();
  run_lines();
  if (output_.size() < kMaxPendingBytes) backend_.accept_input();
}

void QtestServer::stop_intercepting() {
  if (intercepted_.empty()) return;
  // Each answers for itself whether it had anything to stop.
  std::ignore = machine_.irqs.intercept_in(intercepted_, nullptr);
  std::ignore = machine_.irqs.intercept_out(intercepted_, nullptr);
  intercepted_.clear();
}

/// Runs the complete lines, as long as the client takes the answers.
void QtestServer::run_lines() {
  size_t done = 0;
  while (output_.size() < kMaxPendingBytes) {
    const size_t end = input_.find('\n', std::max(done, scanned_));
    if (end == std::string::npos) {
      scanned_ = input_.size();
      break;
    }
    const auto line = std::string_view(input_).substr(done, end - done);
    if (!std::exchange(skipping_, false)) send(run_line(line));
    scanned_ = done = end + 1;
  }
  input_.erase(0, done);
  scanned_ -= std::min(scanned_, done);
  if (scanned_ == input_.size() && input_.size() > kMaxLineBytes) {
    if (!std::exchange(skipping_, true)) send("ERR the line is too long");
    input_.clear();
    scanned_ = 0;
  }
}

std::string QtestServer::run_line(std::string_view line) {
  const std::vector<std::string_view> words = split(line);
  RHEA_TRACE(kVmm, "qtest command=\"{}\"", line.substr(0, 80));
  if (words.empty()) return "ERR empty line";
  const Command* command = find_command(words[0]);
  if (command == nullptr) return fmt::format("FAIL Unknown command '{}'", words[0].substr(0, 40));
  const size_t arguments = words.size() - 1;
  if (arguments < command->min_arguments || arguments > command->max_arguments) {
    return fmt::format("ERR {} takes {} argument(s), not {}", command->name, command->max_arguments,
                       arguments);
  }
  const auto result = (this->*command->run)(words);
  if (!result) {
    const bool malformed = result.error().kind() == ErrorKind::kInvalidArgument;
    return fmt::format("{} {}", malformed ? "ERR" : "FAIL", result.error().message());
  }
  return result->empty() ? "OK" : fmt::format("OK {}", *result);
}

void QtestServer::set_irq(unsigned line, bool level) {
  bql.assert_held();
  send(fmt::format("IRQ {} {}", level ? "raise" : "lower", line));
}

void QtestServer::send(std::string_view line) {
  output_.append(line);
  output_.push_back('\n');
  flush();
}

void QtestServer::flush() {
  const size_t taken = backend_.write(std::as_bytes(std::span(output_)));
  output_.erase(0, taken);
}

}  // namespace rhea::vmm
