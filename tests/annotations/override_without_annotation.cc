// expect: calling function 'co_flush' requires holding graph 'graph_lock'
// An override that does not repeat the annotation has none: what it calls is refused. One that
// calls nothing of the kind compiles, and may then be called unlocked; the lint finds that one.
#include "block/node.h"

using namespace rhea;
using namespace rhea::block;

class Filter : public BlockDriver {
 public:
#ifdef GOOD
  Result<void> co_flush(Co& co) override REQUIRES_SHARED(graph_lock) {
#else
  Result<void> co_flush(Co& co) override {
#endif
    return node_->co_flush(co);
  }

 private:
  Node* node_ = nullptr;
};
