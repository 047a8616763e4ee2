// Opening an image by its name.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "block/graph.h"
#include "util/options.h"

namespace rhea::vmm {

/// Opens `options`, a raw node over `file`, if what is in the file looks like no other format, and
/// warns on stderr: the guest may not write what would look like one, see FirstBlockGuard.
/// `name` is what the warning calls the file.
/// Errors: those of the nodes; kUnsupported, it is of another format.
Result<block::NodeRef> open_probed(Gs& gs, block::Graph& graph, OptionTree options,
                                   const std::string& name);

/// Whether a driver is the host's side of a tree itself, and takes no file below it.
bool is_protocol(std::string_view driver) noexcept;

/// Opens the image that a person calls `filename`; see block::parse_filename(). Without a format it
/// is probed. Errors: as open_probed().
Result<block::NodeRef> open_image(Gs& gs, block::Graph& graph, const std::string& filename,
                                  const std::optional<std::string>& format, bool read_only);

}  // namespace rhea::vmm
