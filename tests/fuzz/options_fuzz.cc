// Option lists and whole command lines. The first line of the input says which: with "args" the
// other lines are the arguments of a command line, else all of it is one option list.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "util/option_reader.h"
#include "util/options.h"
#include "vmm/cli.h"

namespace {

using namespace rhea;

constexpr size_t kMaxArgs = 64;

/// Reads every value as every type: no text may do more than fail.
void read_all(const OptionTree& tree) {
  for (const OptionTree& value : tree.values()) read_all(value);
  for (const std::string& key : tree.keys()) {
    OptionReader reader(tree, "fuzz.");
    (void)OptionReader(reader).take_bool(key);
    (void)OptionReader(reader).take_uint(key);
    (void)OptionReader(reader).take_size(key, 1024);
    (void)OptionReader(reader).take_identifier(key);
    (void)OptionReader(reader).take_object(key);
    RHEA_CHECK(!reader.finish());
  }
}

size_t depth(const OptionTree& tree) {
  size_t deepest = 0;
  for (const OptionTree& value : tree.values()) deepest = std::max(deepest, depth(value));
  return deepest + 1;
}

void fuzz_list(std::string_view text) {
  for (const OptionSyntax& syntax :
       {OptionSyntax{}, OptionSyntax{.implied_key = "type"},
        OptionSyntax{.implied_key = "path", .bare_words = BareWords::kBoolean}}) {
    const auto tree = parse_options(text, syntax);
    if (!tree) continue;
    RHEA_CHECK(tree->is_object());
    RHEA_CHECK(depth(*tree) <= kMaxOptionDepth + 1);
    if (tree->keys().size() <= 64) read_all(*tree);
  }
}

void fuzz_command_line(std::string_view text) {
  std::vector<std::string> args;
  while (!text.empty() && args.size() < kMaxArgs) {
    const size_t end = text.find('\n');
    const std::string_view arg = text.substr(0, end);
    args.emplace_back(arg.substr(0, arg.find('\0')));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
  std::vector<const char*> argv;
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  const auto outcome = vmm::parse_command_line(argv);
  if (!outcome) {
    RHEA_CHECK(outcome.error().message().find('\n') == std::string::npos);
    return;
  }
  if (const auto* config = std::get_if<vmm::VmConfig>(&*outcome)) {
    const auto& smp = config->smp;
    RHEA_CHECK(smp.cpus >= 1 && smp.cpus <= smp.max_cpus && smp.max_cpus <= 255);
    RHEA_CHECK(smp.max_cpus == smp.sockets * smp.cores * smp.threads);
    RHEA_CHECK(config->memory.size_bytes > 0 && config->memory.size_bytes % 4096 == 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(data, data + size);  // chars, not bytes of another type
  constexpr std::string_view kArgs = "args\n";
  if (text.starts_with(kArgs)) {
    fuzz_command_line(std::string_view(text).substr(kArgs.size()));
  } else {
    fuzz_list(text);
  }
  return 0;
}
