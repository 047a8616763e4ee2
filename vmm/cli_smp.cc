// -smp: how many CPUs, and in which sockets, cores and threads.
#include <array>

#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {
namespace {

/// xAPIC ids are 8 bits wide and 0xff is the broadcast.
constexpr uint64_t kMaxCpus = 255;

/// What was given; 0 stands for "not given", since 0 itself is refused.
struct Asked {
  uint64_t cpus = 0, max_cpus = 0, sockets = 0, dies = 0, cores = 0, threads = 0;
};

struct Row {
  std::string_view key;
  uint64_t Asked::* field;
};
constexpr std::array kRows{
    Row{"cpus", &Asked::cpus}, Row{"maxcpus", &Asked::max_cpus}, Row{"sockets", &Asked::sockets},
    Row{"dies", &Asked::dies}, Row{"cores", &Asked::cores},      Row{"threads", &Asked::threads},
};

Error too_many(uint64_t cpus) {
  return fail(ErrorKind::kInvalidArgument,
              "Invalid SMP CPUs {}. The max CPUs supported by machine 'pc' is {}", cpus, kMaxCpus);
}

Result<Asked> read_asked(const OptionTree& options) {
  OptionReader reader(options, "smp.");
  Asked asked;
  for (const Row& row : kRows) {
    const auto value = TRY(reader.take_uint(row.key));
    if (!value) continue;
    if (*value == 0) {
      return fail(ErrorKind::kInvalidArgument,
                  "Invalid CPU topology: CPU topology parameters must be greater than zero");
    }
    // Also keeps the products below from overflowing.
    if (*value > kMaxCpus) return too_many(*value);
    asked.*row.field = *value;
  }
  if (asked.dies > 1) return fail(ErrorKind::kUnsupported, "dies not supported by this machine");
  if (const auto unused = reader.first_unused()) {
    return fail(ErrorKind::kInvalidArgument, "Parameter '{}' is unexpected", *unused);
  }
  return asked;
}

/// Fills in what was not given: cores first, then sockets, then threads take up the CPUs, as
/// QEMU's machines do since 6.2.
Asked complete(Asked asked) {
  const auto one = [](uint64_t& value) { value = value == 0 ? 1 : value; };
  asked.dies = 1;
  const bool counted = asked.cpus != 0 || asked.max_cpus != 0;
  const uint64_t cpus = asked.max_cpus != 0 ? asked.max_cpus : asked.cpus;
  if (!counted) {
    one(asked.sockets), one(asked.cores), one(asked.threads);
  } else if (asked.cores == 0) {
    one(asked.sockets), one(asked.threads);
    asked.cores = cpus / (asked.sockets * asked.threads);
  } else if (asked.sockets == 0) {
    one(asked.threads);
    asked.sockets = cpus / (asked.cores * asked.threads);
  }
  if (asked.threads == 0) asked.threads = cpus / (asked.sockets * asked.cores);
  asked.max_cpus = counted ? cpus : asked.sockets * asked.cores * asked.threads;
  if (asked.cpus == 0) asked.cpus = asked.max_cpus;
  return asked;
}

std::string hierarchy(const Asked& asked) {
  return fmt::format("sockets ({}) * dies (1) * cores ({}) * threads ({})", asked.sockets,
                     asked.cores, asked.threads);
}

Result<void> settle_smp(Draft& draft) {
  const Asked full = complete(TRY(read_asked(draft.smp.options)));
  if (full.sockets * full.cores * full.threads != full.max_cpus) {
    return fail(ErrorKind::kInvalidArgument,
                "Invalid CPU topology: product of the hierarchy must match maxcpus: {} != maxcpus "
                "({})",
                hierarchy(full), full.max_cpus);
  }
  if (full.max_cpus < full.cpus) {
    return fail(ErrorKind::kInvalidArgument,
                "Invalid CPU topology: maxcpus must be equal to or greater than smp: {} == maxcpus "
                "({}) < smp_cpus ({})",
                hierarchy(full), full.max_cpus, full.cpus);
  }
  if (full.max_cpus > kMaxCpus) return too_many(full.max_cpus);
  draft.config.smp = {.cpus = static_cast<unsigned>(full.cpus),
                      .max_cpus = static_cast<unsigned>(full.max_cpus),
                      .sockets = static_cast<unsigned>(full.sockets),
                      .cores = static_cast<unsigned>(full.cores),
                      .threads = static_cast<unsigned>(full.threads)};
  return ok();
}

}  // namespace

Result<void> on_smp(Draft& draft, const Given& given) {
  draft.smp.merge(given, TRY(parse_options(given.value, {.implied_key = "cpus"})));
  return ok();
}

Result<void> finish_smp(Draft& draft) {
  if (!draft.smp.given()) return ok();
  auto settled = settle_smp(draft);
  if (!settled) return at(draft.smp.origin, std::move(settled).error());
  return ok();
}

}  // namespace rhea::vmm::cli
