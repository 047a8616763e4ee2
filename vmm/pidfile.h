// -pidfile: tells others our process id, and keeps a second instance off the file.
#pragma once

#include <sys/types.h>

#include <string>

#include "util/error.h"
#include "util/fd.h"

namespace rhea::vmm {

/// A file that holds our process id and is locked for as long as it does; removed at the end.
/// A file left by a process that was killed has no lock, and is taken over.
/// Thread: any one.   Owns: the file, its lock.
class Pidfile {
 public:
  /// Call it in the process that will run: the id is that of the caller.
  /// Errors: the file can not be written, or another running instance holds it.
  static Result<Pidfile> create(const std::string& path);

  Pidfile(Pidfile&& other) noexcept = default;
  Pidfile& operator=(Pidfile&&) = delete;
  ~Pidfile();

 private:
  Pidfile(Fd fd, std::string path);

  Fd fd_;  // none: moved from
  std::string path_;
  pid_t owner_;  // a child of ours does not remove it
};

}  // namespace rhea::vmm
