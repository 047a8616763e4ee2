// The character devices without a peer that comes and goes: null, file, stdio.
#pragma once

#include "vmm/chardev/chardev.h"

namespace rhea::vmm {

/// Takes everything and says nothing.
std::unique_ptr<Chardev> make_null_chardev(const ChardevConfig& config);

/// Writes to a file, which it empties first; a FIFO or a device will do.
Result<std::unique_ptr<Chardev>> make_file_chardev(const ChardevConfig& config,
                                                   AioContext& context);

/// Standard input and output, a terminal in raw mode. The end of the input is not the end of the
/// output, nor the other way round. Errors: kBusy if there is one already.
Result<std::unique_ptr<Chardev>> make_stdio_chardev(const ChardevConfig& config,
                                                    AioContext& context);

}  // namespace rhea::vmm
