#include "vmm/qmp/json_options.h"

#include <string>

#include "util/check.h"

namespace rhea::vmm {
namespace {

/// Walks a JSON value; `path_` is where it stands, for messages.
class Converter {
 public:
  Result<OptionTree> convert(const Json& value) {
    if (++items_ > kMaxOptionItems) {
      return fail(ErrorKind::kInvalidArgument, "more than {} parameters", kMaxOptionItems);
    }
    switch (value.type()) {
      case Json::value_t::string:
        return text(value.get_ref<const std::string&>());
      case Json::value_t::boolean:
        return OptionTree::string(value.get<bool>() ? "on" : "off", Scalar::kSwitch);
      case Json::value_t::number_integer:
      case Json::value_t::number_unsigned:
        return OptionTree::string(value.dump(), Scalar::kNumber);
      case Json::value_t::object:
        return nested([&] { return object(value); });
      case Json::value_t::array:
        return nested([&] { return list(value); });
      case Json::value_t::null:
        return fail(ErrorKind::kInvalidArgument, "Parameter '{}' can not be null", path_);
      case Json::value_t::number_float:
        return fail(ErrorKind::kInvalidArgument,
                    "Invalid parameter type for '{}', expected: integer", path_);
      case Json::value_t::binary:
      case Json::value_t::discarded:
        break;
    }
    RHEA_UNREACHABLE("a JSON text has no such value");
  }

 private:
  Result<OptionTree> text(const std::string& value) const {
    if (value.find('\0') != value.npos) {
      return fail(ErrorKind::kInvalidArgument, "Parameter '{}' contains a zero byte", path_);
    }
    return OptionTree::string(value, Scalar::kText);
  }

  template <class F>
  Result<OptionTree> nested(F&& f) {
    if (depth_ == kMaxOptionDepth) {
      return fail(ErrorKind::kInvalidArgument, "nested deeper than {} levels", kMaxOptionDepth);
    }
    ++depth_;
    auto result = f();
    --depth_;
    return result;
  }

  Result<OptionTree> member(const std::string& step, const Json& value) {
    const size_t length = path_.size();
    path_ += step;
    auto result = convert(value);
    path_.resize(length);
    return result;
  }

  Result<OptionTree> object(const Json& value) {
    OptionTree tree;
    for (const auto& [key, child] : value.items()) {
      if (key.empty() || key.find('\0') != key.npos) {
        return fail(ErrorKind::kInvalidArgument, "Invalid parameter ''");
      }
      tree.set(key, TRY(member(path_.empty() ? key : "." + key, child)));
    }
    return tree;
  }

  Result<OptionTree> list(const Json& value) {
    OptionTree tree = OptionTree::list();
    for (size_t i = 0; i < value.size(); ++i) {
      tree.append(TRY(member(fmt::format("[{}]", i), value[i])));
    }
    return tree;
  }

  std::string path_;
  size_t depth_ = 0;
  size_t items_ = 0;
};

}  // namespace

Result<OptionTree> json_options(const Json& arguments) {
  RHEA_CHECK(arguments.is_object());
  return Converter().convert(arguments);
}

}  // namespace rhea::vmm
