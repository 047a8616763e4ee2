// QMP commands for migration.
#pragma once

#include "vmm/migration/migrator.h"
#include "vmm/qmp/command.h"

namespace rhea::vmm {

/// migrate, migrate-incoming, migrate_cancel, migrate-continue, migrate-set-capabilities,
/// migrate-set-parameters and the queries. `migrator` outlives the table.
void add_migration_commands(QmpCommandTable& table, Migrator& migrator);

/// What query-migrate answers.
ReplyJson migration_json(const migration::Progress& progress,
                         const std::optional<migration::Address>& listens_at);

}  // namespace rhea::vmm
