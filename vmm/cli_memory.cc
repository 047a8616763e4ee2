// -m and -object; settles memory backends them with -mem-path and -mem-prealloc.
#include <algorithm>
#include <array>
#include <bit>

#include "util/parse.h"
#include "vmm/internal/cli.h"
#include "vmm/object_table.h"

namespace rhea::vmm::cli {
namespace {

constexpr uint64_t kDefaultMemory = 128 * kMiB;
/// What four-level paging can map of a host process; more can not be meant.
constexpr uint64_t kMaxMemory = 64 * kGiB * 1024;
constexpr uint64_t kPage = 4 * kKiB;
constexpr std::string_view kMachineMemoryId = "pc.ram";

using Type = MemoryBackendConfig::Type;

struct TypeRow {
  std::string_view name;
  Type type;
  bool share;  ///< what `share` is if not given
};
constexpr std::array kTypes{TypeRow{"memory-backend-ram", Type::kRam, false},
                            TypeRow{"memory-backend-memfd", Type::kMemfd, true},
                            TypeRow{"memory-backend-file", Type::kFile, false}};

Result<void> check_size(uint64_t size) {
  if (size == 0) {
    return fail(ErrorKind::kInvalidArgument, "Parameter 'size' must not be 0: no guest runs so");
  }
  if (size % kPage != 0) {
    return fail(ErrorKind::kInvalidArgument, "Parameter 'size' must be a multiple of 4 KiB");
  }
  if (size > kMaxMemory) {
    return fail(ErrorKind::kInvalidArgument, "Parameter 'size' must not be above 64 TiB");
  }
  return ok();
}

Result<void> take_hugetlb(OptionReader& reader, MemoryBackendConfig& backend) {
  backend.hugetlb = TRY(reader.take_bool("hugetlb")).value_or(false);
  const auto page = TRY(reader.take_size("hugetlbsize"));
  if (!page) return ok();
  if (!backend.hugetlb) {
    return fail(ErrorKind::kInvalidArgument, "Parameter 'hugetlbsize' needs hugetlb=on");
  }
  if (!std::has_single_bit(*page) || *page <= kPage) {
    return fail(ErrorKind::kInvalidArgument,
                "Parameter 'hugetlbsize' expects a power of two above 4 KiB");
  }
  if (backend.size_bytes % *page != 0) {
    return fail(ErrorKind::kInvalidArgument,
                "Parameter 'size' must be a multiple of 'hugetlbsize'");
  }
  backend.hugetlb_size_bytes = *page;
  return ok();
}

Result<void> read_memory_object(OptionReader reader, bool share_default, MemoryObject& object) {
  MemoryBackendConfig& backend = object.backend;
  const auto size = TRY(reader.take_size("size"));
  if (!size) return fail(ErrorKind::kInvalidArgument, "Parameter 'size' is missing");
  backend.size_bytes = *size;
  TRY(check_size(backend.size_bytes));
  backend.share = TRY(reader.take_bool("share")).value_or(share_default);
  object.prealloc = TRY(reader.take_bool("prealloc"));
  if (backend.type == Type::kMemfd) TRY(take_hugetlb(reader, backend));
  if (backend.type == Type::kFile) backend.path = TRY(reader.take_required("mem-path"));
  return reader.finish();
}

/// libvirt gives every guest a master key. Nothing here is encrypted with it, so nothing reads it.
Result<void> check_secret(OptionReader reader) {
  for (const char* key : {"data", "file", "format", "keyid", "iv"}) {
    TRY(reader.take_string(key));
  }
  return reader.finish();
}

/// The one memory object that the machine uses. Errors: another one would be of no effect.
Result<MemoryBackendConfig> use_object(Draft& draft, const std::string& id) {
  std::optional<MemoryBackendConfig> chosen;
  for (MemoryObject& object : draft.memory_objects) {
    if (object.backend.id != id) {
      return at(object.origin,
                fail(ErrorKind::kInvalidArgument,
                     "memory backend '{0}' is not used (-machine memory-backend={0} uses it)",
                     object.backend.id));
    }
    chosen = object.backend;
    chosen->prealloc = object.prealloc.value_or(draft.mem_prealloc);
  }
  if (!chosen) {
    return at(draft.machine.origin,
              fail(ErrorKind::kNotFound, "Memory backend '{}' not found", id));
  }
  if (draft.mem_path) {
    return at(draft.machine.origin,
              fail(ErrorKind::kInvalidArgument,
                   "'-mem-path' can't be used together with '-machine memory-backend'"));
  }
  return *std::move(chosen);
}

/// What -m, -mem-path and -mem-prealloc say.
MemoryBackendConfig plain_memory(const Draft& draft, uint64_t size) {
  MemoryBackendConfig memory;
  memory.type = draft.mem_path ? Type::kFile : Type::kRam;
  memory.id = kMachineMemoryId;
  memory.size_bytes = size;
  memory.path = draft.mem_path.value_or("");
  memory.prealloc = draft.mem_prealloc;
  return memory;
}

/// -m, if it was given. Units: bytes.
Result<std::optional<uint64_t>> settle_size(const Draft& draft) {
  OptionReader reader(draft.memory.options);
  for (const char* key : {"slots", "maxmem"}) {
    if (reader.has(key)) {
      return fail(ErrorKind::kUnsupported, "Parameter '{}': memory can not be plugged in", key);
    }
  }
  const auto size = TRY(reader.take_size("size", kMiB));
  TRY(reader.finish());
  if (size) TRY(check_size(*size));
  return size;
}

std::string object_help() {
  std::set<std::string_view> names{"secret"};
  for (const TypeRow& row : kTypes) names.insert(row.name);
  for (const ObjectType& type : object_types()) names.insert(type.name);
  std::string text = "List of user creatable objects:\n";
  for (const std::string_view name : names) text += fmt::format("  {}\n", name);
  return text;
}

}  // namespace

Result<void> on_memory(Draft& draft, const Given& given) {
  draft.memory.merge(given, TRY(parse_options(given.value, {.implied_key = "size"})));
  return ok();
}

Result<void> on_object(Draft& draft, const Given& given) {
  if (given.value == "help" || given.value == "?") {
    draft.print = object_help();
    return ok();
  }
  OptionReader reader(TRY(parse_options(given.value, {.implied_key = "qom-type"})));
  const std::string type = TRY(reader.take_required("qom-type"));
  const auto row = std::ranges::find(kTypes, type, &TypeRow::name);
  const bool in_table = find_object_type(type) != nullptr;
  if (row == kTypes.end() && type != "secret" && !in_table) {
    return fail(ErrorKind::kInvalidArgument, "Parameter 'qom-type' does not accept value '{}'",
                type);
  }
  std::string id = TRY(reader.take_required_identifier("id"));
  if (!draft.object_ids.insert(id).second) {
    return fail(ErrorKind::kExists, "Duplicate ID '{}' for object", id);
  }
  if (in_table) {
    draft.config.objects.push_back({type, std::move(id), reader.take_rest(), given.origin()});
    return ok();
  }
  draft.config.other_object_ids.push_back(id);
  if (type == "secret") return check_secret(std::move(reader));
  MemoryObject object;
  object.backend.type = row->type;
  object.backend.id = std::move(id);
  object.origin = given.origin();
  TRY(read_memory_object(std::move(reader), row->share, object));
  draft.memory_objects.push_back(std::move(object));
  return ok();
}

Result<void> finish_memory(Draft& draft, const std::string& memory_backend) {
  auto settled = settle_size(draft);
  if (!settled) return at(draft.memory.origin, std::move(settled).error());
  const std::optional<uint64_t> size = *settled;
  if (memory_backend.empty() && draft.memory_objects.empty()) {
    draft.config.memory = plain_memory(draft, size.value_or(kDefaultMemory));
    return ok();
  }
  draft.config.memory = TRY(use_object(draft, memory_backend));
  if (size && *size != draft.config.memory.size_bytes) {
    return at(draft.memory.origin,
              fail(ErrorKind::kInvalidArgument,
                   "Machine memory size does not match the size of the memory backend"));
  }
  return ok();
}

}  // namespace rhea::vmm::cli
