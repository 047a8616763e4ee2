#include "util/saved_state.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace rhea {
namespace {

/// Writes the JSON text while it reads, so that hostile bytes cost no more than they are long.
/// Errors: the first one is kept.
class JsonDump {
 public:
  Result<std::string> run(std::span<const uint8_t> bytes) && {
    object(bytes, 0);
    if (error_) return *error_;
    return std::move(out_);
  }

 private:
  using Bytes = std::span<const uint8_t>;

  /// Adds a step to the path for as long as it lives.
  class Step {
   public:
    Step(std::string& path, std::string_view step) : path_(path), size_(path.size()) {
      path_ += step;
    }
    ~Step() { path_.resize(size_); }
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

   private:
    std::string& path_;
    const size_t size_;
  };

  std::nullopt_t refuse(std::string_view what) {
    if (!error_) error_ = fail(ErrorKind::kCorrupt, "field '{}': {}", path_, what);
    return std::nullopt;
  }
  std::optional<Bytes> take(Bytes& from, size_t size) {
    if (from.size() < size) return refuse("the data ends in it");
    const Bytes taken = from.first(size);
    from = from.subspan(size);
    return taken;
  }
  std::optional<uint64_t> number(Bytes& from, size_t size) {
    const auto bytes = take(from, size);
    if (!bytes) return std::nullopt;
    uint64_t value = 0;
    for (size_t index = size; index-- > 0;) value = value << 8 | (*bytes)[index];
    return value;
  }
  std::optional<Bytes> sized(Bytes& from) {
    const auto size = number(from, sizeof(uint32_t));
    return size ? take(from, *size) : std::nullopt;
  }

  void text(Bytes bytes) {
    const nlohmann::json json = std::string(bytes.begin(), bytes.end());
    out_ += json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  }

  void hexadecimal(Bytes bytes) {
    out_ += '"';
    for (const uint8_t byte : bytes) out_ += fmt::format("{:02x}", byte);
    out_ += '"';
  }

  void object(Bytes inside, size_t depth) {
    if (depth > kMaxStateDepth) return void(refuse("nested too deeply"));
    out_ += '{';
    while (!error_ && !inside.empty()) {
      if (out_.back() != '{') out_ += ", ";
      field(inside, depth);
    }
    out_ += '}';
  }

  void field(Bytes& from, size_t depth) {
    const auto name_size = number(from, 1);
    if (name_size > kMaxStateName) return void(refuse("a name that is too long"));
    const auto name = name_size ? take(from, *name_size) : std::nullopt;
    const auto type = name ? number(from, 1) : std::nullopt;
    if (!type) return;
    text(*name);
    out_ += ": ";
    const Step dot(path_, path_.empty() ? "" : ".");
    const Step step(path_, std::string(name->begin(), name->end()));
    value(from, static_cast<StateType>(*type), depth);
  }

  void value(Bytes& from, StateType type, size_t depth) {
    if (const size_t size = size_of_number(type); size > 0) {
      if (const auto read = number(from, size)) out_ += number_text(type, *read);
      return;
    }
    if (to_string(type) == "unknown") return void(refuse("of no known type"));
    const auto inside = sized(from);
    if (!inside) return;
    if (type == StateType::kString) return text(*inside);
    if (type == StateType::kStruct) return object(*inside, depth + 1);
    if (type == StateType::kList) return list(*inside, depth + 1);
    hexadecimal(*inside);
  }

  static std::string number_text(StateType type, uint64_t value) {
    if (type == StateType::kBool) return value != 0 ? "true" : "false";
    if (type == StateType::kI64) return fmt::format("{}", static_cast<int64_t>(value));
    return fmt::format("{}", value);
  }

  void list(Bytes inside, size_t depth) {
    const auto count = number(inside, sizeof(uint32_t));
    out_ += '[';
    for (uint64_t index = 0; count && index < *count && !error_; ++index) {
      if (index > 0) out_ += ", ";
      const Step step(path_, fmt::format("[{}]", index));
      if (const auto fields = sized(inside)) object(*fields, depth + 1);
    }
    if (!inside.empty()) refuse("bytes are left over");
    out_ += ']';
  }

  std::string out_;
  std::string path_;
  std::optional<Error> error_;
};

}  // namespace

Result<std::string> state_to_json(std::span<const uint8_t> bytes) { return JsonDump().run(bytes); }

}  // namespace rhea
