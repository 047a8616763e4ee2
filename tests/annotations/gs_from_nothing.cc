// expect: calling a private constructor of class 'rhea::Gs'
// Global-state code is for who was given the token.
#include "block/graph.h"

using namespace rhea;
using namespace rhea::block;

#ifdef GOOD
void close(Graph& graph, Gs& gs) { graph.close_unused(gs); }
#else
void close(Graph& graph) {
  Gs gs;
  graph.close_unused(gs);
}
#endif
