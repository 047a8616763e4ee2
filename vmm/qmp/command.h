// QMP commands: what one is, what it takes, what it answers.
#pragma once

#include <concepts>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "util/error.h"
#include "vmm/named_fds.h"
#include "vmm/qmp/json_text.h"

namespace rhea::vmm {

/// QMP's error classes: all but kGenericError exist for clients that switch on them.
enum class QmpErrorClass : uint8_t {
  kGenericError,
  kCommandNotFound,
  kDeviceNotActive,
  kDeviceNotFound,
  kKvmMissingCap,
};
std::string_view to_string(QmpErrorClass error_class) noexcept;

struct QmpError {
  QmpErrorClass error_class = QmpErrorClass::kGenericError;
  std::string description;
};

/// What a handler answers: the value of "return", or an error. An Error becomes a GenericError, so
/// TRY works in handlers.
class [[nodiscard]] QmpResult : public std::expected<ReplyJson, QmpError> {
 public:
  QmpResult(ReplyJson value) : std::expected<ReplyJson, QmpError>(std::move(value)) {}
  QmpResult(QmpError error) : std::expected<ReplyJson, QmpError>(std::unexpect, std::move(error)) {}
  QmpResult(const Error& error) : QmpResult(QmpError{.description = error.message()}) {}
};

/// The "return" of a command that has nothing to say.
inline QmpResult qmp_done() { return ReplyJson::object(); }

enum class QmpType : uint8_t { kString, kInteger, kNumber, kBoolean, kObject, kArray, kAny };
enum class QmpPresence : uint8_t { kRequired, kOptional };

struct QmpArgument {
  std::string name;
  QmpType type = QmpType::kAny;
  QmpPresence presence = QmpPresence::kRequired;
  /// Those that a string may be; none: any.
  std::vector<std::string> values{};
};

/// What a command does. Most handlers need the arguments only; one that takes descriptors from its
/// client has a second parameter, for those of the monitor that the command came by.
class QmpHandler {
 public:
  template <std::invocable<const Json&> F>
  QmpHandler(F f)
      : run_([f = std::move(f)](const Json& arguments, NamedFds&) -> QmpResult {
          return f(arguments);
        }) {}
  template <std::invocable<const Json&, NamedFds&> F>
  QmpHandler(F f) : run_(std::move(f)) {}

  QmpResult operator()(const Json& arguments, NamedFds& fds) const { return run_(arguments, fds); }

 private:
  std::function<QmpResult(const Json& arguments, NamedFds& fds)> run_;
};

/// Whether a command's arguments are those it declares, or others as well, which its handler checks
/// (the options of a block driver).
enum class QmpShape : uint8_t { kDeclared, kAny };

/// What a command takes besides if its argument `tag` has a certain value.
struct QmpVariants {
  std::string tag;
  std::map<std::string, std::vector<QmpArgument>, std::less<>> arguments;  ///< by the tag's value
};

/// A command. The framework checks declared arguments first: a handler meets only objects that have
/// every required member, each of its type, and, unless its shape is kAny, no other. They are also
/// what query-qmp-schema tells.
/// Thread: handlers run on main, in the service context, with the BQL held. They are no coroutines
/// and keep the events of what they did ahead of their own answer by returning last.
struct QmpCommand {
  std::string name;
  std::vector<QmpArgument> arguments;
  QmpHandler handler;
  QmpShape shape = QmpShape::kDeclared;
  QmpVariants variants{};
  /// What a client may want to know of it: "json-cli-hotplug".
  std::vector<std::string> features{};

  /// Checks, then calls the handler. `fds`: of the monitor that the command came by.
  QmpResult run(const Json& given, NamedFds& fds) const;
  /// For whoever can not be passed descriptors.
  QmpResult run(const Json& given) const;
};

/// What is wrong with `arguments`, an object, in QEMU's words and order: members missing or of the
/// wrong type in the order of the schema, then members it does not know.
std::optional<QmpError> check_arguments(const std::vector<QmpArgument>& schema,
                                        const Json& arguments,
                                        QmpShape shape = QmpShape::kDeclared);

/// The commands of a server, by name.
/// Invariants: no two have one name.
class QmpCommandTable {
 public:
  void add(QmpCommand command);
  /// Asked before the handlers of these commands, which are there; an error is the answer.
  using Guard = std::function<Result<void>(std::string_view command)>;
  void guard(std::span<const std::string_view> names, const Guard& guard);
  /// Null if there is none.
  const QmpCommand* find(std::string_view name) const;
  /// In alphabetical order.
  auto all() const { return std::views::values(commands_); }

 private:
  std::map<std::string, QmpCommand, std::less<>> commands_;
};

}  // namespace rhea::vmm
