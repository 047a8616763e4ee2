// The JSON spelling of an option list.
#include <nlohmann/json.hpp>
#include <optional>

#include "util/options.h"

namespace rhea {
namespace {

/// Builds the tree while the text is read, so that limits hold before memory is spent.
/// Errors: the first one is kept, and a callback that returns false ends the parse.
class TreeBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return refuse("null is not a value here"); }
  bool boolean(bool value) override {
    return add(OptionTree::string(value ? "on" : "off", Scalar::kSwitch));
  }
  bool number_integer(number_integer_t value) override {
    return add(OptionTree::string(std::to_string(value), Scalar::kNumber));
  }
  bool number_unsigned(number_unsigned_t value) override {
    return add(OptionTree::string(std::to_string(value), Scalar::kNumber));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return refuse(fmt::format("'{}' is not a whole number below 2^64", text));
  }
  bool string(string_t& value) override {
    if (value.find('\0') != value.npos) return refuse("a string contains a zero byte");
    return add(OptionTree::string(std::move(value), Scalar::kText));
  }
  bool binary(binary_t&) override { return refuse("binary is not a value here"); }

  bool start_object(size_t) override { return open(OptionTree()); }
  bool key(string_t& value) override {
    if (value.empty() || value.find('\0') != value.npos) return refuse("Invalid parameter ''");
    Frame& frame = open_.back();
    if (frame.tree.find(value) != nullptr) {
      return refuse(fmt::format("Parameter '{}' is given twice", value));
    }
    frame.key = std::move(value);
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(OptionTree::list()); }
  bool end_array() override { return close(); }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return refuse(fmt::format("JSON parse error at byte {}", position));
  }

  Result<OptionTree> result() && {
    if (error_) return fail(ErrorKind::kInvalidArgument, "{}", *error_);
    if (!root_ || !root_->is_object()) {
      return fail(ErrorKind::kInvalidArgument, "a JSON object is expected");
    }
    return std::move(*root_);
  }

 private:
  struct Frame {
    OptionTree tree;
    std::string key;  // of the member whose value comes next
  };

  bool refuse(std::string message) {
    if (!error_) error_ = std::move(message);
    return false;
  }

  bool open(OptionTree tree) {
    if (open_.size() == kMaxOptionDepth) {
      return refuse(fmt::format("nested deeper than {} levels", kMaxOptionDepth));
    }
    open_.push_back({std::move(tree), {}});
    return true;
  }

  bool close() {
    OptionTree done = std::move(open_.back().tree);
    open_.pop_back();
    return add(std::move(done));
  }

  bool add(OptionTree value) {
    if (++items_ > kMaxOptionItems) {
      return refuse(fmt::format("more than {} parameters", kMaxOptionItems));
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return true;
    }
    Frame& frame = open_.back();
    if (frame.tree.is_object()) {
      frame.tree.set(std::move(frame.key), std::move(value));
    } else {
      frame.tree.append(std::move(value));
    }
    return true;
  }

  std::vector<Frame> open_;
  std::optional<OptionTree> root_;
  std::optional<std::string> error_;
  size_t items_ = 0;
};

}  // namespace

Result<OptionTree> parse_json_options(std::string_view text) {
  if (text.size() > kMaxOptionBytes) {
    return fail(ErrorKind::kInvalidArgument, "longer than {} bytes", kMaxOptionBytes);
  }
  TreeBuilder builder;
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder).result();
}

}  // namespace rhea
