// One list of fields for both directions between our structs and KVM's.
#pragma once

namespace rhea::vmm {

struct FromKvm {
  template <class Ours, class Kvms>
  void operator()(Ours& ours, const Kvms& kvms) const {
    ours = static_cast<Ours>(kvms);
  }
};
struct ToKvm {
  template <class Ours, class Kvms>
  void operator()(const Ours& ours, Kvms& kvms) const {
    kvms = static_cast<Kvms>(ours);
  }
};

}  // namespace rhea::vmm
