// expect: calling function 'node' requires holding graph 'graph_lock'
// An edge is followed by who holds the graph.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

Node* below(Co& co, const Edge& edge) {
#ifdef GOOD
  GraphReadGuard reading(co);
#else
  static_cast<void>(co);
#endif
  return edge.node();
}
