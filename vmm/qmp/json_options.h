// From the arguments of a command to options.
#pragma once

#include <string_view>

#include "util/error.h"
#include "util/options.h"
#include "vmm/qmp/json_text.h"

namespace rhea::vmm {

/// The options that `arguments`, an object, say. Numbers, switches and texts are marked as such.
/// Errors: kInvalidArgument: null, a fraction, or what no option list may be (nested too deep).
Result<OptionTree> json_options(const Json& arguments);

}  // namespace rhea::vmm
