// What query-migrate answers.
#include <chrono>
#include <string>
#include <utility>

#include "vmm/qmp/migration_commands.h"

namespace rhea::vmm {
namespace {

using migration::Progress;
using migration::Status;

int64_t whole_ms(Nanoseconds time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
}

double exact_ms(Nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

/// QEMU's names, all that its clients may ask for: of what does not exist here (postcopy,
/// zero-copy) there is none.
ReplyJson ram_json(const Progress& p) {
  constexpr double kBitsPerMegabit = 1e6 / 8;
  ReplyJson json;
  json["transferred"] = p.transferred_bytes;
  json["remaining"] = p.remaining_pages * memory::kDirtyPageBytes;
  json["total"] = p.ram_bytes;
  json["duplicate"] = p.zero_pages;
  json["skipped"] = 0;
  json["normal"] = p.normal_pages;
  json["normal-bytes"] = p.normal_pages * memory::kDirtyPageBytes;
  json["dirty-pages-rate"] = p.dirty_pages_per_s;
  json["mbps"] = static_cast<double>(p.bytes_per_s) / kBitsPerMegabit;
  json["dirty-sync-count"] = p.passes;
  json["page-size"] = memory::kDirtyPageBytes;
  json["pages-per-second"] = p.pages_per_s;
  json["multifd-bytes"] = p.transferred_bytes - p.main_bytes;
  const uint64_t precopy_bytes = p.precopy_bytes.value_or(p.transferred_bytes);
  json["precopy-bytes"] = precopy_bytes;
  json["downtime-bytes"] = p.transferred_bytes - precopy_bytes;
  json["postcopy-bytes"] = 0;
  json["postcopy-requests"] = 0;
  json["dirty-sync-missed-zero-copy"] = 0;
  json["x-main-bytes"] = p.main_bytes;
  json["x-channels"] = p.channel_bytes;
  return json;
}

ReplyJson phases_json(const migration::Phases& phases) {
  ReplyJson passes = ReplyJson::array();
  for (const Nanoseconds pass : phases.passes) passes.push_back(exact_ms(pass));
  ReplyJson json;
  json["setup"] = exact_ms(phases.setup);
  json["passes"] = std::move(passes);
  json["stop"] = exact_ms(phases.stop);
  json["last-copy"] = exact_ms(phases.last_copy);
  json["device-state"] = exact_ms(phases.device_state);
  json["load"] = exact_ms(phases.load);
  json["resume"] = exact_ms(phases.resume);
  return json;
}

ReplyJson address_json(const migration::Address& address) {
  ReplyJson json;
  if (address.kind == migration::Address::Kind::kUnix) {
    json["path"] = address.target;
    json["type"] = "unix";
  } else {
    json["port"] = address.port;
    json["host"] = address.host;
    json["type"] = "inet";
    json[address.host.find(':') == std::string::npos ? "ipv4" : "ipv6"] = true;
  }
  return json;
}

}  // namespace

ReplyJson migration_json(const Progress& p, const std::optional<migration::Address>& listens_at) {
  ReplyJson json = ReplyJson::object();
  if (p.status == Status::kNone) return json;
  json["status"] = to_string(p.status);
  if (listens_at) json["socket-address"] = ReplyJson::array({address_json(*listens_at)});
  if (p.error) json["error-desc"] = p.error->message();
  const bool of_source = p.ram_bytes != 0;
  if (!of_source) return json;
  json["total-time"] = whole_ms(p.total);
  json["setup-time"] = whole_ms(p.phases.setup);
  if (p.downtime) json["downtime"] = whole_ms(*p.downtime);
  if (p.expected_downtime && !is_over(p.status)) {
    json["expected-downtime"] = whole_ms(*p.expected_downtime);
  }
  if (p.cpu_throttle_percent != 0) json["cpu-throttle-percentage"] = p.cpu_throttle_percent;
  json["ram"] = ram_json(p);
  json["x-phases-ms"] = phases_json(p.phases);
  if (!p.stall.empty()) json["x-stall"] = p.stall;
  return json;
}

}  // namespace rhea::vmm
