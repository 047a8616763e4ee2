#include "block/filename.h"

#include <string>

#include "block/drivers/file.h"
#include "block/drivers/null_co.h"

namespace rhea::block {
namespace {

OptionTree of_driver(std::string_view driver) {
  OptionTree options;
  options.set("driver", OptionTree::string(std::string(driver)));
  return options;
}

Result<OptionTree> of_path(std::string_view path) {
  if (path.empty()) {
    return fail(ErrorKind::kInvalidArgument, "The 'file' block driver requires a file name");
  }
  if (path.find('\0') != path.npos) {
    return fail(ErrorKind::kInvalidArgument, "A file name can not contain a zero byte");
  }
  OptionTree options = of_driver(File::kName);
  options.set("filename", OptionTree::string(std::string(path)));
  return options;
}

}  // namespace

Result<OptionTree> parse_filename(std::string_view name) {
  const size_t colon = name.find(':');
  if (colon == name.npos || name.find('/') < colon) return of_path(name);
  const std::string_view protocol = name.substr(0, colon);
  const std::string_view rest = name.substr(colon + 1);
  if (protocol == "file") return of_path(rest);
  if (protocol == "json") {
    auto options = parse_json_options(rest);
    if (options) return options;
    return std::move(options).error().context("Could not parse the JSON options");
  }
  if (protocol == NullCo::kName) {
    if (rest == "//") return of_driver(NullCo::kName);
    return fail(ErrorKind::kInvalidArgument,
                "The only allowed filename for this driver is 'null-co://'");
  }
  return fail(ErrorKind::kInvalidArgument, "Unknown protocol '{}'", protocol);
}

}  // namespace rhea::block
