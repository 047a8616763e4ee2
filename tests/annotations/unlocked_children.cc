// expect: calling function 'children' requires holding graph 'graph_lock'
// And so is the list of them.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

#ifdef GOOD
size_t count(const Node& node) REQUIRES_SHARED(graph_lock);
#endif
size_t count(const Node& node) { return node.children().size(); }
