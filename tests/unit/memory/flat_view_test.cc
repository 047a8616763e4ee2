// The flattening against a model that asks, page by page, which region wins; and the listeners'
// calls, replayed, against the view.
#include "memory/flat_view.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <tuple>

#include "memory/topology.h"
#include "tests/support/size.h"
#include "tests/unit/memory/fixtures.h"
#include "util/fd.h"

using namespace rhea;
using namespace rhea::memory;
using rhea::test::Recorder;

namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kPages = 64;  // of the whole address space

enum class Kind { kContainer, kRam, kRom, kIo, kAlias };

// What the model knows of a region: nothing of the product's.
struct Node {
  Kind kind;
  int64_t pages;
  int parent = -1;
  int64_t offset = 0;
  int priority = 0;
  unsigned order = 0;  // when it was added
  bool enabled = true;
  int target = -1;
  int64_t window = 0;
  bool read_only = false;
  bool doorbell = false;
};

struct Hit {
  int node;
  int64_t page;
  bool read_only;
};

class Model {
 public:
  std::optional<Hit> resolve(int n, int64_t page, bool read_only) const {
    const Node& node = nodes[static_cast<size_t>(n)];
    if (!node.enabled || page < 0 || page >= node.pages) return std::nullopt;
    if (node.kind == Kind::kAlias) {
      return resolve(node.target, page + node.window, read_only || node.read_only);
    }
    std::optional<Hit> best;
    std::pair<int, unsigned> best_rank;
    for (int c = 0; c < static_cast<int>(nodes.size()); ++c) {
      const Node& child = nodes[static_cast<size_t>(c)];
      const std::pair rank(child.priority, child.order);
      if (child.parent != n || (best && rank < best_rank)) continue;
      if (const auto hit = resolve(c, page - child.offset, read_only)) {
        best = hit;
        best_rank = rank;
      }
    }
    if (best || node.kind == Kind::kContainer) return best;
    const bool ram = node.kind == Kind::kRam || node.kind == Kind::kRom;
    return Hit{n, page, ram && (read_only || node.kind == Kind::kRom)};
  }

  std::vector<Node> nodes;
};

using DoorbellKey = std::tuple<uint64_t, const MemoryRegion*, int>;

// Rebuilds the address space from what it is told, and complains when a call does not fit.
class Follower : public MemoryListener {
 public:
  void begin() override {
    wrong |= inside;
    inside = true;
    ++changes;
    added = false;
  }
  void commit() override {
    wrong |= !inside;
    inside = false;
  }
  void region_add(const Section& s) override {
    wrong |= !inside;
    added = true;
    const auto after = sections.lower_bound(s.base.value);
    if (after != sections.end()) wrong |= after->first < s.base.value + s.size_bytes;
    if (after != sections.begin()) {
      const Section& before = std::prev(after)->second;
      wrong |= before.base.value + before.size_bytes > s.base.value;
    }
    sections.insert(after, {s.base.value, s});
  }
  void region_del(const Section& s) override {
    wrong |= !inside || added;  // deletions come first
    const auto found = sections.find(s.base.value);
    wrong |= found == sections.end() || !same(found->second, s);
    if (found != sections.end()) sections.erase(found);
  }
  void doorbell_add(const Section& s, const MemoryRegion::Doorbell& d) override {
    wrong |= !inside || !doorbells.insert(key(s, d)).second;
  }
  void doorbell_del(const Section& s, const MemoryRegion::Doorbell& d) override {
    wrong |= !inside || added || doorbells.erase(key(s, d)) != 1;
  }

  static bool same(const Section& a, const Section& b) {
    return a.region == b.region && a.base == b.base && a.size_bytes == b.size_bytes &&
           a.offset_in_region == b.offset_in_region && a.ram == b.ram &&
           a.offset_in_ram == b.offset_in_ram && a.read_only == b.read_only;
  }
  static DoorbellKey key(const Section& s, const MemoryRegion::Doorbell& d) {
    return {s.base.value + (d.offset - s.offset_in_region), s.region, d.fd};
  }

  std::map<uint64_t, Section> sections;
  std::set<DoorbellKey> doorbells;
  unsigned changes = 0;
  bool wrong = false;
  bool inside = false;
  bool added = false;
};

// One tree, the model of it, and two address spaces: over the root and over an inner container.
class World {
 public:
  explicit World(uint64_t seed) : random_(seed) {
    event_ = MUST(make_eventfd());
    BqlGuard guard;
    make_regions();
    for (const int root : {0, 1}) {
      spaces_.push_back(std::make_unique<AddressSpace>("space", *regions_[size(root)]));
      followers_.push_back(std::make_shared<Follower>());
      spaces_.back()->register_listener(followers_.back());
    }
  }
  ~World() {
    BqlGuard guard;
    for (size_t i = 0; i < spaces_.size(); ++i) spaces_[i]->unregister_listener(*followers_[i]);
    followers_empty_ = followers_[0]->sections.empty() && followers_[1]->sections.empty() &&
                       followers_[0]->doorbells.empty() && followers_[1]->doorbells.empty();
    RHEA_CHECK(followers_empty_, "unregistering left sections behind");
    spaces_.clear();
  }

  void change() {
    BqlGuard guard;
    const int steps = pick(4) == 0 ? 1 + pick(4) : 1;
    doorbell_toggled_ = false;
    MemoryTransaction transaction;
    for (int i = 0; i < steps; ++i) step();
  }

  /// Empty if all is right, else what is not.
  std::string mismatch() {
    for (size_t i = 0; i < spaces_.size(); ++i) {
      auto text = mismatch(i, static_cast<int>(i));
      if (!text.empty()) return fmt::format("space {}: {}", i, text);
    }
    return "";
  }

 private:
  static size_t size(int n) { return static_cast<size_t>(n); }
  int pick(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }

  void add_node(Kind kind, int64_t pages) {
    Node node{.kind = kind, .pages = pages};
    const auto bytes = static_cast<uint64_t>(pages * kPage);
    const std::string name = fmt::format("r{}", regions_.size());
    if (kind == Kind::kContainer) {
      regions_.push_back(std::make_unique<MemoryRegion>(name, bytes));
    } else if (kind == Kind::kIo) {
      regions_.push_back(std::make_unique<MemoryRegion>(name, bytes, device_));
    } else {
      const auto mode =
          kind == Kind::kRom ? MemoryRegion::RamMode::kReadOnly : MemoryRegion::RamMode::kReadWrite;
      regions_.push_back(std::make_unique<MemoryRegion>(name, test::make_ram(bytes), mode));
    }
    model_.nodes.push_back(node);
  }

  void add_alias(int target, int64_t pages) {
    Node node{.kind = Kind::kAlias, .pages = pages};
    node.target = target;
    node.window = pick(8);
    node.read_only = pick(3) == 0;
    const auto mode =
        node.read_only ? MemoryRegion::RamMode::kReadOnly : MemoryRegion::RamMode::kReadWrite;
    regions_.push_back(std::make_unique<MemoryRegion>(
        fmt::format("alias{}", regions_.size()), *regions_[size(target)],
        static_cast<uint64_t>(node.window * kPage), static_cast<uint64_t>(pages * kPage), mode));
    model_.nodes.push_back(node);
  }

  // A region contains only regions of a higher number; aliases come last and show any region that
  // is not above themselves, so there are no cycles: see may_contain().
  void make_regions() {
    add_node(Kind::kContainer, kPages);
    for (int i = 0; i < 4; ++i) add_node(Kind::kContainer, 8 + pick(56));
    for (int i = 0; i < 3; ++i) add_node(Kind::kRam, 1 + pick(24));
    add_node(Kind::kRom, 1 + pick(24));
    for (int i = 0; i < 4; ++i) add_node(Kind::kIo, 1 + pick(24));
    for (int i = 0; i < 5; ++i) {
      const int first = i == 0 ? 3 : 4;  // containers 3 and 4 may be shown, 0 to 2 show
      const int target = first + pick(static_cast<int>(regions_.size()) - first);
      add_alias(target, 1 + pick(32));
    }
  }

  bool reaches(int from, int to) const {
    if (from == to) return true;
    const Node& node = model_.nodes[size(from)];
    if (node.target >= 0 && reaches(node.target, to)) return true;
    for (size_t c = 0; c < model_.nodes.size(); ++c) {
      if (model_.nodes[c].parent == from && reaches(static_cast<int>(c), to)) return true;
    }
    return false;
  }
  bool may_contain(int parent, int child) const {
    return model_.nodes[size(parent)].kind != Kind::kAlias && child != 0 && child != parent &&
           !reaches(child, parent);
  }

  void add(int n, int parent) REQUIRES(bql) {
    Node& node = model_.nodes[size(n)];
    node.parent = parent;
    node.offset = pick(static_cast<int>(kPages)) - (pick(8) == 0 ? 0 : pick(8));
    if (node.offset < 0) node.offset = 0;
    node.priority = pick(4) - 1;
    node.order = ++order_;
    regions_[size(parent)]->add(*regions_[size(n)], bytes(node.offset), node.priority);
  }
  void remove(int n) REQUIRES(bql) {
    Node& node = model_.nodes[size(n)];
    regions_[size(node.parent)]->remove(*regions_[size(n)]);
    node.parent = -1;
  }

  void step() REQUIRES(bql) {
    const int n = 1 + pick(static_cast<int>(regions_.size()) - 1);
    Node& node = model_.nodes[size(n)];
    MemoryRegion& region = *regions_[size(n)];
    if (node.parent < 0) {
      const int parent = pick(3) == 0 ? pick(static_cast<int>(regions_.size())) : pick(5);
      if (may_contain(parent, n)) add(n, parent);
      return;
    }
    switch (pick(7)) {
      case 0:
        remove(n);
        break;
      case 1: {
        const int parent = node.parent;  // as remove and add: a new place and priority
        remove(n);
        add(n, parent);
        break;
      }
      case 2:
      case 3:
        node.offset = pick(static_cast<int>(kPages));
        region.set_offset(bytes(node.offset));
        break;
      case 4:
        node.enabled = !node.enabled;
        region.set_enabled(node.enabled);
        break;
      case 5:
        if (node.kind != Kind::kAlias) break;
        node.window = pick(12);
        node.pages = 1 + pick(32);
        region.set_window(bytes(node.window), bytes(node.pages));
        break;
      default:
        toggle_doorbell(node, region);
        break;
    }
  }

  void toggle_doorbell(Node& node, MemoryRegion& region) REQUIRES(bql) {
    if (node.kind != Kind::kIo) return;
    const MemoryRegion::Doorbell doorbell{
        .offset = kDoorbell, .size_bytes = 4, .match = {}, .fd = event_.get()};
    if (node.doorbell) {
      region.remove_doorbell(doorbell);
    } else {
      MUST(region.add_doorbell(doorbell));
    }
    node.doorbell = !node.doorbell;
    doorbell_toggled_ = true;
  }

  static uint64_t bytes(int64_t pages) { return static_cast<uint64_t>(pages * kPage); }

  std::string mismatch(size_t space, int root) {
    const auto view = spaces_[space]->pin();
    std::set<DoorbellKey> doorbells;
    for (int64_t page = 0; page < kPages + 2; ++page) {
      const auto wanted = model_.resolve(root, page, false);
      const uint64_t address = bytes(page) + random_() % kPage;
      if (!agrees(view->find(address), wanted, address)) {
        return fmt::format("page {}: wanted region {}", page, wanted ? wanted->node : -1);
      }
      if (wanted && model_.nodes[size(wanted->node)].doorbell && wanted->page == 0) {
        doorbells.insert(
            {bytes(page) + kDoorbell, regions_[size(wanted->node)].get(), event_.get()});
      }
    }
    if (!tidy(view->ranges())) return "ranges are not sorted, disjoint and merged";
    const Follower& follower = *followers_[space];
    if (follower.wrong || follower.inside) return "a listener call did not fit";
    if (!follows(follower, *view)) return "the listener's picture differs";
    if (follower.doorbells != doorbells) return "the listener's doorbells differ";
    if (view->doorbells().size() != doorbells.size()) return "the view's doorbells differ";
    return needless_call(space, *view);
  }

  bool agrees(const FlatRange* range, const std::optional<Hit>& wanted, uint64_t address) const {
    if (range == nullptr || !wanted) return (range == nullptr) == !wanted;
    const uint64_t offset = range->offset_in_region + (address - range->base);
    return range->region == regions_[size(wanted->node)].get() &&
           offset / kPage == static_cast<uint64_t>(wanted->page) &&
           range->read_only == wanted->read_only &&
           (range->ram == nullptr || range->offset_in_ram == range->offset_in_region);
  }

  static bool tidy(std::span<const FlatRange> ranges) {
    for (size_t i = 0; i + 1 < ranges.size(); ++i) {
      const FlatRange &a = ranges[i], &b = ranges[i + 1];
      if (a.size_bytes == 0 || a.end() > b.base) return false;
      const bool one = a.end() == b.base && a.region == b.region && a.read_only == b.read_only &&
                       a.offset_in_region + a.size_bytes == b.offset_in_region;
      if (one) return false;
    }
    return true;
  }

  static bool follows(const Follower& follower, const FlatView& view) {
    return std::ranges::equal(view.ranges(), follower.sections,
                              [](const FlatRange& range, const auto& entry) {
                                return Follower::same(make_section(range), entry.second);
                              });
  }

  // A listener may be called only if what it sees has changed.
  std::string needless_call(size_t space, const FlatView& view) {
    Seen now{{view.ranges().begin(), view.ranges().end()},
             followers_[space]->doorbells,
             followers_[space]->changes};
    Seen& last = seen_[space];
    const bool same = now.ranges == last.ranges && now.doorbells == last.doorbells;
    // A doorbell that went and came again within one transaction signals another descriptor.
    const bool needless = same && now.changes != last.changes && !doorbell_toggled_;
    last = std::move(now);
    return needless ? "a listener was called for nothing" : "";
  }

  struct Seen {
    std::vector<FlatRange> ranges;
    std::set<DoorbellKey> doorbells;
    unsigned changes = 1;  // the registration
  };

  static constexpr uint64_t kDoorbell = 8;

  std::mt19937_64 random_;
  RcuThread self_;
  Fd event_;
  Recorder device_{0};
  Model model_;
  std::vector<std::unique_ptr<MemoryRegion>> regions_;
  std::vector<std::unique_ptr<AddressSpace>> spaces_;
  std::vector<std::shared_ptr<Follower>> followers_;
  std::array<Seen, 2> seen_;
  unsigned order_ = 0;
  bool doorbell_toggled_ = false;
  bool followers_empty_ = false;
};

uint64_t chosen_seed() {
  if (const char* seed = std::getenv("RHEA_TEST_SEED")) return std::strtoull(seed, nullptr, 0);
  return std::random_device()();
}

}  // namespace

TEST_CASE("FlatView: random changes give what a page-by-page model gives, and listeners follow",
          "[memory][stress]") {
  const uint64_t seed = chosen_seed();
  const int changes = test::sized(6'000, 1'000'000);
  constexpr int kPerWorld = 1'000;
  WARN("seed " << seed << " (RHEA_TEST_SEED)");
  std::string wrong;
  for (int i = 0; i < changes && wrong.empty(); i += kPerWorld) {
    World world(seed + static_cast<uint64_t>(i));
    for (int j = 0; j < kPerWorld && wrong.empty(); ++j) {
      world.change();
      wrong = world.mismatch();
      if (!wrong.empty()) wrong += fmt::format(", at change {} of world {}", j, i / kPerWorld);
    }
  }
  RcuThread self;
  rcu_drain_callbacks();
  CHECK(wrong == "");
}
