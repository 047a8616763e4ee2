#include "block/request_gate.h"

#include "block/internal/request_gate_impl.h"

namespace rhea::block {

template class BasicRequestGate<RequestGatePolicy>;

}  // namespace rhea::block
