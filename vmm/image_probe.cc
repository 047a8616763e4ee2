#include "vmm/image_probe.h"

#include <unistd.h>

#include <algorithm>
#include <array>

#include "block/drivers/file.h"
#include "block/drivers/first_block_guard.h"
#include "block/drivers/null_co.h"
#include "block/filename.h"
#include "util/fd.h"

namespace rhea::vmm {
namespace {

using block::FirstBlockGuard;

/// Puts the guard between the format and its file.
OptionTree guarded(OptionTree options) {
  OptionTree guard;
  guard.set("driver", OptionTree::string(std::string(FirstBlockGuard::kName)));
  if (options.find("file") != nullptr) guard.set("file", options.take("file"));
  options.set("file", std::move(guard));
  return options;
}

Result<std::string_view> probe(Gs& gs, block::Graph& graph, block::Node& node) {
  return graph.run_sync(gs, graph.loop().block(), [&](Co& co) -> Result<std::string_view> {
    block::GraphReadGuard reading(co);
    std::array<std::byte, block::kFormatProbeBytes> first{};
    const size_t size = std::min<uint64_t>(first.size(), node.length());
    iovec piece{.iov_base = first.data(), .iov_len = size};
    TRY(node.co_read(co, 0, block::IoVector::of(std::span(&piece, 1))));
    return block::recognise_format(std::span(first).first(size));
  });
}

}  // namespace

Result<block::NodeRef> open_probed(Gs& gs, block::Graph& graph, OptionTree options,
                                   const std::string& name) {
  block::NodeRef node = TRY(graph.open(gs, guarded(std::move(options))));
  const std::string_view format = TRY(probe(gs, graph, *node));
  if (!format.empty()) {
    return fail(ErrorKind::kUnsupported,
                "the image looks like format '{}', which is not supported (format=raw takes it as "
                "it is)",
                format);
  }
  // On stderr whatever the log level, as QEMU has it: scripts look for it.
  static_cast<void>(write_all(
      STDERR_FILENO,
      fmt::format("WARNING: Image format was not specified for '{}' and probing guessed raw.\n"
                  "         Automatically detecting the format is dangerous for raw images, write "
                  "operations on block 0 will be restricted.\n"
                  "         Specify the 'raw' format explicitly to remove the restrictions.\n",
                  name)));
  return node;
}

bool is_protocol(std::string_view driver) noexcept {
  return driver == block::File::kName || driver == block::File::kHostDeviceName ||
         driver == block::NullCo::kName;
}

Result<block::NodeRef> open_image(Gs& gs, block::Graph& graph, const std::string& filename,
                                  const std::optional<std::string>& format, bool read_only) {
  OptionTree file = TRY(block::parse_filename(filename));
  OptionTree options;
  if (format && is_protocol(*format)) {
    options = std::move(file);
  } else {
    options.set("file", std::move(file));
  }
  options.set("driver", OptionTree::string(format.value_or("raw")));
  options.set("read-only", OptionTree::string(read_only ? "on" : "off"));
  return format ? graph.open(gs, std::move(options))
                : open_probed(gs, graph, std::move(options), filename);
}

}  // namespace rhea::vmm
