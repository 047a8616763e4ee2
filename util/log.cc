#include "util/log.h"

#include <fcntl.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cerrno>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "util/fd.h"

namespace rhea {
namespace {

constexpr std::array<std::string_view, kLogFolders> kFolderNames{"util",    "memory",    "block",
                                                                 "devices", "migration", "vmm"};
constexpr std::array<std::string_view, 6> kLevelNames{"trace", "debug", "info",
                                                      "warn",  "error", "off"};

/// A file, one write for each line. spdlog's own sink makes the folders that are missing on the way
/// to the file, and whoever mistypes a path would get a tree of them instead of an error.
class FileSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FileSink(Fd file) : file_(std::move(file)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    // A full disk is no reason to end the machine, and there is nowhere else to tell of it.
    static_cast<void>(write_all(file_.get(), std::string_view(line.data(), line.size())));
  }
  void flush_() override {}

  const Fd file_;
};

using Loggers = std::array<std::shared_ptr<spdlog::logger>, kLogFolders>;

Loggers make_loggers(const spdlog::sink_ptr& sink) {
  Loggers loggers;
  for (unsigned i = 0; i < kLogFolders; ++i) {
    loggers[i] = std::make_shared<spdlog::logger>(std::string(kFolderNames[i]), sink);
    loggers[i]->set_level(spdlog::level::trace);  // our own levels decide
    loggers[i]->set_pattern("rhea: %L %n: %v");
    loggers[i]->flush_on(spdlog::level::trace);
  }
  return loggers;
}

Loggers& loggers() {
  // Never destroyed: a thread may log while the process exits.
  static auto* instance =
      new Loggers(make_loggers(std::make_shared<spdlog::sinks::stderr_sink_mt>()));
  return *instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  constexpr std::array kMap{spdlog::level::trace, spdlog::level::debug, spdlog::level::info,
                            spdlog::level::warn,  spdlog::level::err,   spdlog::level::off};
  return kMap[static_cast<size_t>(level)];
}

template <size_t N>
std::optional<unsigned> index_of(const std::array<std::string_view, N>& names,
                                 std::string_view name) {
  for (unsigned i = 0; i < N; ++i) {
    if (names[i] == name) return i;
  }
  return std::nullopt;
}

Result<void> apply_log_item(std::string_view item) {
  const size_t equals = item.find('=');
  const std::string_view folder = item.substr(0, equals);
  const std::string_view level = equals == item.npos ? "trace" : item.substr(equals + 1);
  const auto level_index = index_of(kLevelNames, level);
  if (!level_index) {
    return fail(ErrorKind::kInvalidArgument,
                "'{}' is not a log level (trace, debug, info, warn, error, off)", level);
  }
  const auto folder_index = index_of(kFolderNames, folder);
  if (!folder_index && folder != "all") {
    return fail(ErrorKind::kInvalidArgument,
                "'{}' is not a log folder (util, memory, block, devices, migration, vmm, all)",
                folder);
  }
  for (unsigned i = 0; i < kLogFolders; ++i) {
    if (!folder_index || *folder_index == i) {
      set_log_level(static_cast<LogFolder>(i), static_cast<LogLevel>(*level_index));
    }
  }
  return ok();
}

}  // namespace

namespace internal {

std::atomic<LogLevel> log_levels[kLogFolders] = {LogLevel::kWarn, LogLevel::kWarn, LogLevel::kWarn,
                                                 LogLevel::kWarn, LogLevel::kWarn, LogLevel::kWarn};

void log_line(LogFolder folder, LogLevel level, std::string_view line) {
  loggers()[static_cast<unsigned>(folder)]->log(to_spdlog(level), line);
}

}  // namespace internal

void set_log_level(LogFolder folder, LogLevel level) noexcept {
  internal::log_levels[static_cast<unsigned>(folder)].store(level, std::memory_order_relaxed);
}

Result<void> apply_log_spec(std::string_view spec) {
  while (true) {
    const size_t comma = spec.find(',');
    TRY(apply_log_item(spec.substr(0, comma)));
    if (comma == spec.npos) return ok();
    spec.remove_prefix(comma + 1);
  }
}

Result<void> log_to_file(const std::string& path) {
  constexpr mode_t kMode = 0666;
  Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, kMode));
  if (!file) return fail_errno(errno, "cannot open the log file");
  loggers() = make_loggers(std::make_shared<FileSink>(std::move(file)));
  return ok();
}

}  // namespace rhea
