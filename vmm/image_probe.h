// Opening an image whose format nobody named.
#pragma once

#include <string>

#include "block/graph.h"
#include "util/options.h"

namespace rhea::vmm {

/// Opens `options`, a raw node over `file`, if what is in the file looks like no other format, and
/// warns on stderr: the guest may not write what would look like one, see FirstBlockGuard.
/// `name` is what the warning calls the file.
/// Errors: those of the nodes; kUnsupported, it is of another format.
Result<block::NodeRef> open_probed(Gs& gs, block::Graph& graph, OptionTree options,
                                   const std::string& name);

}  // namespace rhea::vmm
