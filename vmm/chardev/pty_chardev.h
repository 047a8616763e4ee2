// PtyChardev: a pseudo-terminal that a person opens when they like.
#pragma once

#include <string>

#include "vmm/chardev/stream_chardev.h"

namespace rhea::vmm {

/// A pseudo-terminal, announced on stdout. While nobody has it open, output is dropped, as on a
/// serial line with no terminal at its end: the guest does not stall. inotify tells when somebody
/// opens it, so nothing polls.
/// Thread: as Chardev.
class PtyChardev final : public StreamChardev {
 public:
  static Result<std::unique_ptr<PtyChardev>> create(const ChardevConfig& config,
                                                    AioContext& context);
  std::string description() const override { return "pty:" + path_; }

 protected:
  void input_ended() override { close_stream(); }
  void output_ended() override { close_stream(); }

 private:
  PtyChardev(std::string label, AioContext& context, std::string path, Fd master, Fd inotify);
  Result<void> start();
  void somebody_opened();

  const std::string path_;
  Fd master_, inotify_;  // before the watch: it goes first
  FdWatch inotify_watch_;
};

}  // namespace rhea::vmm
