// expect: too few arguments to function call|no matching member function
// A change is committed in a write section alone, whose token nobody can make.
#include "block/graph.h"

using namespace rhea;
using namespace rhea::block;

#ifdef GOOD
void commit(GraphTransaction& transaction, GraphWrite& write) { transaction.commit(write); }
#else
void commit(GraphTransaction& transaction) { transaction.commit(); }
#endif
