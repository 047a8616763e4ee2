// A machine's block layer without the machine, and its QMP commands.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tests/unit/vmm/cli_support.h"
#include "util/bql.h"
#include "util/main_loop.h"
#include "util/rcu.h"
#include "vmm/qmp/blkdebug_commands.h"
#include "vmm/qmp/block_commands.h"
#include "vmm/qmp/block_queries.h"
#include "vmm/qmp/media_commands.h"
#include "vmm/qmp/object_commands.h"
#include "vmm/qmp/qom_commands.h"
#include "vmm/qmp/throttle_command.h"
#include "vmm/storage.h"

namespace rhea::test {

/// The BQL is held as long as it lives.
class StorageFixture {
 public:
  /// `line` has -object, -blockdev and -drive; what it asks for is made, or the test fails.
  explicit StorageFixture(std::string_view line = "") : StorageFixture(Empty{}) {
    const auto made = assemble(line);
    if (!made) throw std::runtime_error(made.error().message());
  }
  // Unchecked: the constructor took the BQL.
  ~StorageFixture() NO_THREAD_SAFETY_ANALYSIS {
    storage_.reset();
    loop_.reset();
    bql.unlock();
  }

  Result<void> assemble(std::string_view line) { return storage_->assemble(gs(), config_of(line)); }
  std::string error_of_assembling(std::string_view line) {
    const auto made = assemble(line);
    return made ? "no error" : made.error().message();
  }

  MainLoop& loop() { return *loop_; }
  Gs& gs() {
    bql.assert_held();
    return loop_->gs();
  }
  vmm::Storage& storage() { return *storage_; }
  block::Graph& graph() { return storage_->graph(); }

  /// The answer to a command: JSON, or "CLASS: description".
  std::string ask(std::string_view command, std::string_view arguments = "{}") {
    const vmm::QmpCommand* found = commands_.find(command);
    if (found == nullptr) return "no such command";
    const auto json = vmm::parse_json(arguments);
    if (!json) return json.error();
    const vmm::QmpResult result = found->run(*json);
    if (!result.has_value()) return show(result.error());
    std::string text;
    vmm::append_json(text, *result);
    return text;
  }
  vmm::ReplyJson answer(std::string_view command, std::string_view arguments = "{}") {
    return vmm::ReplyJson::parse(ask(command, arguments));
  }

 private:
  struct Empty {};
  // Unchecked: the destructor gives the BQL back.
  explicit StorageFixture(Empty) NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    storage_ = std::make_unique<vmm::Storage>(*loop_);
    vmm::add_object_commands(commands_, *loop_, storage_->objects());
    vmm::add_qom_commands(commands_, [this] {
      vmm::QomNode root;
      root.add(vmm::describe_objects(storage_->objects()));
      return root;
    });
    vmm::add_block_commands(commands_, *loop_, *storage_);
    vmm::add_media_commands(commands_, *loop_, *storage_, nullptr);
    vmm::add_throttle_command(commands_, *loop_, *storage_);
    vmm::add_block_queries(commands_, *loop_, *storage_);
    vmm::add_blkdebug_commands(commands_, *loop_, *storage_);
  }
  static std::string show(const vmm::QmpError& error) {
    return fmt::format("{}: {}", vmm::to_string(error.error_class), error.description);
  }

  RcuThread rcu_thread_;
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<vmm::Storage> storage_;
  vmm::QmpCommandTable commands_;
};

}  // namespace rhea::test
