// File names as people write them for images: a path, or one of a few pseudo-protocols.
#pragma once

#include <string_view>

#include "util/error.h"
#include "util/options.h"

namespace rhea::block {

/// The options of the node that `name` stands for:
///   a path, "file:PATH"   the file driver; without "file:" a name with a colon before its first
///                         slash is no path (QEMU's rule: "./a:b" is)
///   "null-co://"          the null driver
///   "json:{...}"          the options themselves
/// Only the protocol: which format lies on it is not in a name.
/// Errors: kInvalidArgument: no name, another protocol, JSON that is none.
Result<OptionTree> parse_filename(std::string_view name);

}  // namespace rhea::block
