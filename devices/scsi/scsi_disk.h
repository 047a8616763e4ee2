// ScsiDisk: what hard disks and CD drives have in common.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "block/backend.h"
#include "block/graph.h"
#include "devices/io_error_policy.h"
#include "devices/scsi/scsi_command.h"
#include "devices/scsi/scsi_reply.h"
#include "devices/scsi/scsi_unit.h"

namespace rhea::devices {

/// What the user says about a unit.
struct ScsiDiskConfig {
  std::string node;       ///< the block node's name; empty: a drive without a medium
  std::string serial;     ///< VPD page 0x80; none if empty
  std::string device_id;  ///< VPD page 0x83; the serial number if empty
  std::optional<uint64_t> wwn;
  std::string vendor = "RHEA";   ///< 8 bytes
  std::string product;           ///< 16 bytes
  std::string revision = "1.0";  ///< 4 bytes
  bool write_cache = true;
  bool share_rw = false;
  OnIoError on_read_error = OnIoError::kReport;
  OnIoError on_write_error = OnIoError::kNoSpace;
};

/// A unit over a block backend: its life, the way of a command through its table, and the commands
/// that all of them have. [SPC-4, SBC-3]
///
/// Each command is a row of commands(): refused there if it is unknown, sets a bit that means
/// nothing, or asks for what the medium can not do; then its handler checks all it was given before
/// it changes anything.
///
/// Thread: see ScsiUnit. Owns: its block backend. Errors: on realize those of the block graph.
class ScsiDisk : public ScsiUnit, private block::BackendUser {
 public:
  ~ScsiDisk() override;

  block::BlockBackend& backend() noexcept { return backend_; }
  const block::BlockBackend& backend() const noexcept { return backend_; }

  Result<void> realize() override REQUIRES(bql);
  void unrealize() override REQUIRES(bql);
  /// The machine's flush may be under way.
  bool idle() const noexcept override { return backend_.idle(); }
  void machine_runs() override REQUIRES(bql);
  std::string settings() const override REQUIRES(bql);
  ScsiUnitState state() const override REQUIRES(bql);
  Result<void> check_state(const ScsiUnitState& state) const override REQUIRES(bql);
  void set_state(const ScsiUnitState& state) override REQUIRES(bql);
  ScsiOutcome execute(Co& co, ScsiRequest& request) final;
  void wake_cancelled() final;

 protected:
  /// What INQUIRY says of the kind of unit.
  struct Kind {
    const char* driver;       ///< what -device calls it
    uint8_t peripheral_type;  ///< [SPC-4 6.6.2]
    bool removable;
    bool read_only;             ///< whatever its medium is
    uint16_t command_standard;  ///< a version descriptor's number
    uint32_t block_size;
  };
  /// A page of vital product data.
  struct VpdPage {
    uint8_t code;
    bool (*is_there)(const ScsiDisk& disk);
    void (*put)(const ScsiDisk& disk, ScsiReply& reply);  ///< without its header
  };
  /// A mode page: `size` bytes with its header.
  struct ModePage {
    uint8_t code;
    uint8_t size;
    void (*put_current)(const ScsiDisk& disk, std::span<uint8_t> page);
    void (*put_default)(const ScsiDisk& disk, std::span<uint8_t> page);
    void (*put_changeable)(std::span<uint8_t> page);  ///< a mask; null: nothing is
  };
  static constexpr size_t kMostModePage = 32;

  /// `errors` outlives it.
  ScsiDisk(std::string name, const ScsiAddress& address, block::Graph& graph, ScsiDiskConfig config,
           const Kind& kind, IoErrorSink& errors);

  // What a kind of unit adds.
  virtual std::span<const ScsiCommand> commands() const = 0;
  virtual std::span<const VpdPage> vpd_pages() const = 0;
  virtual std::span<const ModePage> mode_pages() const = 0;
  /// Why there is no medium to work on; nothing if there is one.
  virtual std::optional<ScsiSense> not_ready() const { return std::nullopt; }
  /// Of the mode parameter header. [SBC-3]
  virtual uint8_t device_specific() const { return 0; }
  virtual bool has_block_descriptor() const { return false; }
  virtual bool gives_space_back() const { return false; }
  /// A page of MODE SELECT that has been found good.
  virtual std::optional<ScsiOutcome> mode_selected(Co& co, ScsiRequest& request,
                                                   std::span<const uint8_t> page);
  /// The medium's length has changed.
  void resized(Gs& gs) noexcept override;

  // Commands.
  ScsiOutcome test_unit_ready(Co& co, ScsiRequest& request);
  ScsiOutcome inquiry(Co& co, ScsiRequest& request);
  ScsiOutcome report_supported_opcodes(Co& co, ScsiRequest& request);
  ScsiOutcome mode_sense(Co& co, ScsiRequest& request);
  ScsiOutcome mode_select(Co& co, ScsiRequest& request);
  ScsiOutcome read_capacity_10(Co& co, ScsiRequest& request);
  ScsiOutcome read(Co& co, ScsiRequest& request);
  /// A command that is accepted, and for which nothing is to be done.
  ScsiOutcome do_nothing(Co& co, ScsiRequest& request);

  // For handlers.
  block::Graph& graph() const noexcept { return graph_; }
  const ScsiDiskConfig& config() const noexcept { return config_; }
  const Kind& kind() const noexcept { return kind_; }
  uint32_t block_size() const noexcept { return kind_.block_size; }
  uint64_t blocks() const noexcept { return backend_.length() / kind_.block_size; }
  /// As much of `reply` as the initiator has allocated for it.
  static ScsiOutcome answer(ScsiRequest& request, const ScsiReply& reply, uint64_t allocation);
  static ScsiOutcome cancelled(const ScsiRequest& request) {
    return {.end = request.cancelled_end()};
  }
  static ScsiOutcome overrun() { return {.end = ScsiOutcome::End::kOverrun}; }
  /// Nothing if the range is on the medium.
  std::optional<ScsiOutcome> check_range(Co& co, const ScsiCdb::Range& range,
                                         block::RequestKind what);
  /// What the host is asked for: which block it starts at, if it is about blocks.
  struct Step {
    IoError::Operation kind;
    std::optional<uint64_t> lba{};
  };
  /// Does `operation`, as rerror= and werror= say if it fails; nothing if all is well, or is to
  /// look so.
  template <class F>
  std::optional<ScsiOutcome> attempt(Co& co, ScsiRequest& request, const Step& step,
                                     F&& operation) {
    Waiter waiter(request);
    const Result<void> result = errors_.attempt(co, waiter, step.kind, operation);
    if (result.has_value()) [[likely]]
      return std::nullopt;
    return failed(request, step, result.error());
  }
  /// Everything on its way to stable storage.
  std::optional<ScsiOutcome> flush(Co& co, ScsiRequest& request);

  /// What errors call the node of another medium.
  void set_error_node(std::string node) { errors_.set_node(std::move(node)); }

  static void put_unit_serial(const ScsiDisk& disk, ScsiReply& reply);
  static void put_identification(const ScsiDisk& disk, ScsiReply& reply);
  static void put_page_list(const ScsiDisk& disk, ScsiReply& reply);
  static bool has_serial(const ScsiDisk& disk) { return !disk.config_.serial.empty(); }
  static bool always(const ScsiDisk&) { return true; }

 private:
  /// The policy's view of a request.
  class Waiter final : public IoErrorPolicy::Request {
   public:
    explicit Waiter(ScsiRequest& request) : request_(request) {}
    bool given_up() const noexcept override { return request_.cancelled(); }
    void park() override { request_.park(); }
    void unpark() override { request_.unpark(); }

   private:
    ScsiRequest& request_;
  };

  // A drain: the backend's own gate holds back what comes, and counts what is under way, so a unit
  // has nothing to stop, and no request in hand that the backend does not know of. One that waits
  // for the machine is outside of the gate, and its transport has been told (park()).
  void drained_begin() noexcept override {}
  void drained_end() noexcept override {}
  bool drained_poll() const noexcept override { return false; }

  static bool supports(const ScsiDisk& disk, const ScsiCommand& command);
  std::optional<ScsiSense> refuses(const ScsiCommand& command, const ScsiCdb& cdb) const;
  ScsiOutcome failed(ScsiRequest& request, const Step& step, const Error& error) const;

  void put_standard_inquiry(ScsiReply& reply) const;
  std::optional<ScsiSense> put_vpd(uint8_t code, ScsiReply& reply) const;
  std::optional<ScsiSense> put_mode_pages(const ScsiCdb& cdb, ScsiReply& reply) const;
  void put_block_descriptor(ScsiReply& reply, bool is_long) const;
  std::optional<ScsiSense> check_block_descriptor(std::span<const uint8_t> descriptor) const;
  std::optional<ScsiSense> check_mode_list(const ScsiCdb& cdb, std::span<const uint8_t> list,
                                           std::span<const uint8_t>& pages) const;
  std::optional<ScsiSense> check_mode_page(std::span<const uint8_t> page) const;

  block::Graph& graph_;
  const ScsiDiskConfig config_;
  const Kind kind_;
  IoErrorPolicy errors_;
  block::BlockBackend backend_;
};

}  // namespace rhea::devices
