// expect: acquiring graph 'graph_lock' that is already held
// Main's guard neither.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

void twice(Gs& gs) {
  GraphMainReadGuard outer(gs);
#ifndef GOOD
  GraphMainReadGuard inner(gs);
#endif
}
