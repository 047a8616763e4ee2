#include "vmm/chardev/simple_chardevs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "util/bql.h"
#include "vmm/chardev/stream_chardev.h"
#include "vmm/chardev/terminal_guard.h"

namespace rhea::vmm {

namespace {

class NullChardev final : public Chardev {
 public:
  explicit NullChardev(std::string label) : Chardev(std::move(label)) { set_peer_present(true); }
  size_t write(std::span<const std::byte> data) override { return data.size(); }
  void accept_input() override {}
  std::string description() const override { return "null"; }
};

class FileChardev final : public StreamChardev {
 public:
  FileChardev(std::string label, AioContext& context, Fd output)
      : StreamChardev(std::move(label), context) {
    open_stream({}, std::move(output));
  }
  std::string description() const override { return "file"; }
};

class StdioChardev final : public StreamChardev {
 public:
  /// The file status flags that descriptors 0 and 1 had.
  struct Flags {
    int input = 0;
    int output = 0;
  };
  StdioChardev(std::string label, AioContext& context, TerminalGuard guard, const Flags& flags)
      : StreamChardev(std::move(label), context), guard_(std::move(guard)), flags_(flags) {}
  ~StdioChardev() override {
    ::fcntl(STDIN_FILENO, F_SETFL, flags_.input);
    ::fcntl(STDOUT_FILENO, F_SETFL, flags_.output);
    taken = false;
  }
  void open(Fd input, Fd output) { open_stream(std::move(input), std::move(output)); }
  std::string description() const override { return "stdio"; }

  static bool taken;  // descriptors 0 and 1 are the process's, like this

 protected:
  void input_ended() override { close_input(); }
  void output_ended() override { close_output(); }

 private:
  TerminalGuard guard_;
  const Flags flags_;
};
bool StdioChardev::taken = false;

/// A descriptor for what `fd` refers to that does not block. O_NONBLOCK belongs to the open file,
/// which the shell and others share with us, so a terminal or a pipe is opened anew; reads and
/// writes of a regular file do not block, and a socket is told so with every write.
Result<Fd> reopen_nonblocking(int fd, int access) {
  struct stat status{};
  if (::fstat(fd, &status) < 0) return fail_errno(errno, "cannot use descriptor {}", fd);
  if (S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode)) {
    Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!copy) return fail_errno(errno, "cannot copy descriptor {}", fd);
    return copy;
  }
  const std::string path = fmt::format("/proc/self/fd/{}", fd);
  Fd opened(::open(path.c_str(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (opened) return opened;
  // A device that can be opened only once (a virtio port, say), or a file that is not ours to open.
  // Nobody but whoever started us can share it then, and ~StdioChardev() gives it back as it was.
  Fd shared(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!shared) return fail_errno(errno, "cannot copy descriptor {}", fd);
  TRY(set_nonblocking(fd, true));
  return shared;
}

}  // namespace

std::unique_ptr<Chardev> make_null_chardev(const ChardevConfig& config) {
  return std::make_unique<NullChardev>(config.id);
}

Result<std::unique_ptr<Chardev>> make_file_chardev(const ChardevConfig& config,
                                                   AioContext& context) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  Fd file(::open(config.path.c_str(), kFlags, 0666));
  if (!file) return fail_errno(errno, "Unable to open '{}'", config.path);
  return std::make_unique<FileChardev>(config.id, context, std::move(file));
}

Result<std::unique_ptr<Chardev>> make_stdio_chardev(const ChardevConfig& config,
                                                    AioContext& context) {
  if (StdioChardev::taken) {
    return fail(ErrorKind::kBusy, "cannot use stdio by multiple character devices");
  }
  const StdioChardev::Flags flags{.input = ::fcntl(STDIN_FILENO, F_GETFL),
                                  .output = ::fcntl(STDOUT_FILENO, F_GETFL)};
  auto guard = TRY(TerminalGuard::create(
      STDIN_FILENO, config.signal ? TerminalSignals::kOn : TerminalSignals::kOff));
  StdioChardev::taken = true;
  auto stdio = std::make_unique<StdioChardev>(config.id, context, std::move(guard), flags);
  Fd input = TRY(reopen_nonblocking(STDIN_FILENO, O_RDONLY));
  Fd output = TRY(reopen_nonblocking(STDOUT_FILENO, O_WRONLY));
  stdio->open(std::move(input), std::move(output));
  return stdio;
}

}  // namespace rhea::vmm
