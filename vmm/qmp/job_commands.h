// The commands about block jobs: blockdev-mirror, query-jobs, query-block-jobs, job-*, block-job-*.
#pragma once

#include "util/main_loop.h"
#include "vmm/qmp/command.h"
#include "vmm/storage.h"

namespace rhea::vmm {

/// `loop` and `storage` outlive the table's use.
void add_job_commands(QmpCommandTable& table, MainLoop& loop, Storage& storage);

}  // namespace rhea::vmm
