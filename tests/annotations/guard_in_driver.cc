// expect: acquiring graph 'graph_lock' that is already held
// A driver's request has the graph already.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

Result<void> read_below(Co& co, const Edge& edge) REQUIRES_SHARED(graph_lock);
Result<void> read_below(Co& co, const Edge& edge) {
#ifndef GOOD
  GraphReadGuard reading(co);
#endif
  return edge.node()->co_flush(co);
}
