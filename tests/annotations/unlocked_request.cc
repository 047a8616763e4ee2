// expect: calling function 'co_flush' requires holding graph 'graph_lock'
// A node's request methods take no lock: who starts the request does.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

Result<void> flush(Co& co, Node& node) {
#ifdef GOOD
  GraphReadGuard reading(co);
#endif
  return node.co_flush(co);
}
