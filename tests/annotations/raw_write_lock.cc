// expect: graph 'graph_lock' is not held on every path|graph 'graph_lock' is still held
// Who takes the write side by hand must give it back on every path.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

bool write(Gs& gs) {
  if (!graph_lock.write_lock(gs, Nanoseconds(0))) return false;
#ifdef GOOD
  graph_lock.write_unlock(gs);
#endif
  return true;
}
