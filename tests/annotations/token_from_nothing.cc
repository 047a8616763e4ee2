// expect: calling a private constructor of class 'rhea::block::GraphWrite'
// Only Graph::change() makes the token.
#include "block/graph.h"

using namespace rhea;
using namespace rhea::block;

#ifdef GOOD
void change(Graph& graph, Gs& gs, GraphTransaction& transaction) {
  static_cast<void>(
      graph.change(gs, [&](GraphWrite& write) { transaction.commit(write); }).has_value());
}
#else
void change(GraphTransaction& transaction) {
  GraphWrite write;
  transaction.commit(write);
}
#endif
