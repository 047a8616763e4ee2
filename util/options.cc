#include "util/options.h"

#include <algorithm>
#include <optional>

#include "util/parse.h"

namespace rhea {

OptionTree OptionTree::string(std::string text, Scalar written_as) {
  OptionTree tree;
  tree.kind_ = Kind::kString;
  tree.written_as_ = written_as;
  tree.text_ = std::move(text);
  return tree;
}

OptionTree OptionTree::list() {
  OptionTree tree;
  tree.kind_ = Kind::kList;
  return tree;
}

const OptionTree* OptionTree::find(std::string_view key) const noexcept {
  const auto at = std::ranges::find(keys_, key);
  return at == keys_.end() ? nullptr : &values_[static_cast<size_t>(at - keys_.begin())];
}

OptionTree* OptionTree::find(std::string_view key) noexcept {
  const auto at = std::ranges::find(keys_, key);
  return at == keys_.end() ? nullptr : &values_[static_cast<size_t>(at - keys_.begin())];
}

OptionTree& OptionTree::set(std::string key, OptionTree value) {
  RHEA_CHECK(is_object());
  if (OptionTree* there = find(key)) return *there = std::move(value);
  keys_.push_back(std::move(key));
  return values_.emplace_back(std::move(value));
}

OptionTree OptionTree::take(std::string_view key) {
  const auto at = std::ranges::find(keys_, key);
  RHEA_CHECK(at != keys_.end(), "no member '{}'", key);
  const auto offset = at - keys_.begin();
  OptionTree value = std::move(values_[static_cast<size_t>(offset)]);
  keys_.erase(at);
  values_.erase(values_.begin() + offset);
  return value;
}

void OptionTree::append(OptionTree value) {
  RHEA_CHECK(kind_ == Kind::kList);
  values_.push_back(std::move(value));
}

void OptionTree::merge(OptionTree later) {
  RHEA_CHECK(is_object() && later.is_object());
  for (size_t i = 0; i < later.keys_.size(); ++i) {
    set(std::move(later.keys_[i]), std::move(later.values_[i]));
  }
}

namespace {

Error bad_key(std::string_view key) {
  return fail(ErrorKind::kInvalidArgument, "Invalid parameter '{}'", key);
}
Error inconsistent(std::string_view prefix) {
  return fail(ErrorKind::kInvalidArgument, "Parameters '{}.*' used inconsistently", prefix);
}

bool is_index(std::string_view fragment) {
  return !fragment.empty() &&
         std::ranges::all_of(fragment, [](char c) { return c >= '0' && c <= '9'; }) &&
         (fragment.size() == 1 || fragment.front() != '0');
}

/// A name starts with a letter (or '_', or is a vendor's "x-..."): '.' separates, so it is not one.
bool is_name(std::string_view fragment) {
  return !fragment.starts_with('_') ? is_identifier(fragment)
                                    : fragment.size() > 1 && is_identifier(fragment.substr(1));
}

/// Cuts the fragments of "file.cache.direct" apart, or says that it is no key.
Result<std::vector<std::string_view>> split_key(std::string_view key) {
  std::vector<std::string_view> fragments;
  for (std::string_view rest = key;;) {
    const size_t dot = rest.find('.');
    const std::string_view fragment = rest.substr(0, dot);
    const bool legal = is_name(fragment) || (!fragments.empty() && is_index(fragment));
    if (!legal || fragments.size() == kMaxOptionDepth) return bad_key(key);
    fragments.push_back(fragment);
    if (dot == rest.npos) return fragments;
    rest.remove_prefix(dot + 1);
  }
}

/// Puts `value` under a dotted key. A key already used as a leaf can not also be an object.
Result<void> insert(OptionTree& root, std::string_view key, std::string value) {
  const auto fragments = TRY(split_key(key));
  OptionTree* node = &root;
  for (size_t i = 0; i + 1 < fragments.size(); ++i) {
    OptionTree* child = node->find(fragments[i]);
    if (child == nullptr) child = &node->set(std::string(fragments[i]), OptionTree());
    if (!child->is_object()) {
      const auto end = fragments[i].data() + fragments[i].size();
      return inconsistent(key.substr(0, static_cast<size_t>(end - key.data())));
    }
    node = child;
  }
  if (const OptionTree* there = node->find(fragments.back())) {
    if (there->is_object()) return inconsistent(key);
    return fail(ErrorKind::kInvalidArgument, "Parameter '{}' is given twice", key);
  }
  node->set(std::string(fragments.back()), OptionTree::string(std::move(value)));
  return ok();
}

Result<OptionTree> lists_from_indices(OptionTree tree, std::string_view path);

/// An object keyed 0..n-1 in any order, as a list.
Result<OptionTree> as_list(OptionTree object, std::string_view path) {
  OptionTree list = OptionTree::list();
  const size_t count = object.keys().size();
  for (size_t i = 0; i < count; ++i) {
    const std::string key = std::to_string(i);
    const std::string element = fmt::format("{}.{}", path, key);
    if (object.find(key) == nullptr) {
      return fail(ErrorKind::kInvalidArgument, "Parameter '{}' missing", element);
    }
    list.append(TRY(lists_from_indices(object.take(key), element)));
  }
  return list;
}

/// Turns the objects below `tree` whose keys are all numbers into lists.
/// Recursion is bounded by the depth that split_key() allows.
Result<OptionTree> lists_from_indices(OptionTree tree, std::string_view path) {
  if (!tree.is_object()) return tree;
  const auto indices = std::ranges::count_if(tree.keys(), is_index);
  if (indices > 0) {
    if (static_cast<size_t>(indices) != tree.keys().size()) return inconsistent(path);
    return as_list(std::move(tree), path);
  }
  const std::vector<std::string> keys(tree.keys().begin(), tree.keys().end());
  for (const std::string& key : keys) {
    const std::string below = path.empty() ? key : fmt::format("{}.{}", path, key);
    OptionTree* child = tree.find(key);
    *child = TRY(lists_from_indices(std::move(*child), below));
  }
  return tree;
}

/// Takes a value up to its ',' off `rest`, undoubling commas; the separator goes too.
std::string take_value(std::string_view& rest) {
  std::string value;
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    value.append(rest.substr(0, comma));
    if (comma == rest.npos) {
      rest = {};
      break;
    }
    const bool doubled = comma + 1 < rest.size() && rest[comma + 1] == ',';
    rest.remove_prefix(comma + (doubled ? 2 : 1));
    if (!doubled) break;
    value.push_back(',');
  }
  return value;
}

struct Item {
  std::string key;
  std::string value;
};

/// Takes the next item off `rest`.
Result<Item> take_item(std::string_view& rest, std::string_view implied_key, BareWords bare_words) {
  const size_t end = rest.find_first_of("=,");
  if (end != rest.npos && rest[end] == '=') {
    Item item{std::string(rest.substr(0, end)), {}};
    rest.remove_prefix(end + 1);
    item.value = take_value(rest);
    return item;
  }
  if (end == 0) return bad_key("");
  if (!implied_key.empty()) return Item{std::string(implied_key), take_value(rest)};
  const std::string_view word = rest.substr(0, end);
  rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
  if (bare_words == BareWords::kRefused) {
    return fail(ErrorKind::kInvalidArgument, "Expected '=' after parameter '{}'", word);
  }
  if (word.starts_with("no")) return Item{std::string(word.substr(2)), "off"};
  return Item{std::string(word), "on"};
}

}  // namespace

Result<OptionTree> parse_keyval(std::string_view text, const OptionSyntax& syntax) {
  if (text.size() > kMaxOptionBytes) {
    return fail(ErrorKind::kInvalidArgument, "longer than {} bytes", kMaxOptionBytes);
  }
  if (text.find('\0') != text.npos) {
    return fail(ErrorKind::kInvalidArgument, "contains a zero byte");
  }
  OptionTree root;
  std::string_view implied_key = syntax.implied_key;
  for (size_t items = 0; !text.empty(); ++items) {
    if (items == kMaxOptionItems) {
      return fail(ErrorKind::kInvalidArgument, "more than {} parameters", kMaxOptionItems);
    }
    Item item = TRY(take_item(text, implied_key, syntax.bare_words));
    TRY(insert(root, item.key, std::move(item.value)));
    implied_key = {};
  }
  return lists_from_indices(std::move(root), "");
}

Result<OptionTree> parse_options(std::string_view text, const OptionSyntax& syntax) {
  if (text.starts_with('{')) return parse_json_options(text);
  return parse_keyval(text, syntax);
}

}  // namespace rhea
