// expect: acquiring graph 'graph_lock' that is already held
// The lock is not recursive.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

void twice(Co& co) {
  GraphReadGuard outer(co);
#ifndef GOOD
  GraphReadGuard inner(co);
#endif
}
