// expect: calling function 'co_flush' requires holding graph 'graph_lock'
// The analysis sees a lambda alone: it says itself what it knows.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

Result<void> flush(Co& co, Node& node) {
  GraphReadGuard reading(co);
  const auto body = [&] {
#ifdef GOOD
    graph_lock.assert_reading();
#endif
    return node.co_flush(co);
  };
  return body();
}
