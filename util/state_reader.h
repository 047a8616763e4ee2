// StateReader: bytes become a described struct, or an error. See saved_state.h.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "util/error.h"
#include "util/state_type.h"

namespace rhea {

/// Visits a description to fill in what it describes, from bytes that nobody vouches for: the same
/// fields in the same order, of the same types, within their bounds, and nothing else.
/// Owns: nothing; the bytes outlive it.
/// Invariants: memory is taken only for what is in the bytes. After the first error nothing is
/// read. Errors: kCorrupt, with the name of the state and the field's path: "rtc: field
/// 'alarms[2].cmos': 64 bytes, expected 128".
class StateReader {
 public:
  /// Of the state called `name` in messages.
  StateReader(std::string_view name, std::span<const uint8_t> bytes);

  template <StateNumber T>
  void field(std::string_view name, T& value) {
    if (auto read = number(name, *internal::kStateTypeOf<T>)) {
      value = static_cast<T>(*read);
    }
  }
  template <size_t N>
  void field(std::string_view name, std::array<uint8_t, N>& value) {
    fill(name, value);
  }
  void field(std::string_view name, std::vector<uint8_t>& value, size_t max);
  void field(std::string_view name, std::string& value, size_t max);
  template <class T>
    requires std::is_class_v<T>
  void field(std::string_view name, T& value) {
    if (auto outer = open(name)) {
      T::describe(*this, value);
      close(*outer);
    }
  }
  template <class T, size_t N>
  void field(std::string_view name, std::array<T, N>& values) {
    list(name, N, N, [&values](size_t index) -> T& { return values[index]; });
  }
  template <class T>
  void field(std::string_view name, std::vector<T>& values, size_t max) {
    values.clear();
    list(name, 0, max, [&values](size_t) -> T& { return values.emplace_back(); });
  }

  /// The whole of a state.
  template <class T>
  Result<T> read() {
    T state{};
    T::describe(*this, state);
    TRY(finish());
    return state;
  }

 private:
  /// What is around a struct while its fields are read.
  struct Outer {
    std::span<const uint8_t> rest;
    size_t path_size;
  };
  struct List {
    Outer outer;
    size_t count;
  };

  template <class Element>
  void list(std::string_view name, size_t min, size_t max, Element element) {
    const std::optional<List> list = open_list(name, min, max);
    if (!list) return;
    for (size_t index = 0; index < list->count; ++index) {
      const std::optional<Outer> outer = open_element(index);
      if (!outer) return;
      auto& value = element(index);
      std::remove_reference_t<decltype(value)>::describe(*this, value);
      close(*outer);
    }
    close(list->outer);
  }

  /// Bytes of exactly this many.
  void fill(std::string_view name, std::span<uint8_t> value);
  /// Each returns nothing if there was an error, now or before.
  std::optional<std::span<const uint8_t>> payload(std::string_view name, StateType type);
  std::optional<uint64_t> number(std::string_view name, StateType type);
  std::optional<std::span<const uint8_t>> bytes(std::string_view name, StateType type, size_t min,
                                                size_t max);
  std::optional<Outer> open(std::string_view name);
  std::optional<List> open_list(std::string_view name, size_t min, size_t max);
  std::optional<Outer> open_element(size_t index);
  /// Fails if fields are left over.
  void close(const Outer& outer);
  std::optional<Outer> enter(std::string_view step, std::span<const uint8_t> inside);
  Result<void> finish();
  /// The path of a field or element of the struct that is open; of that struct for an empty step.
  std::string path_to(std::string_view step) const;
  /// Keeps the first error.
  std::nullopt_t refuse(std::string_view step, std::string_view what);
  bool take_header(std::string_view name, StateType type);

  const std::string name_;
  std::span<const uint8_t> rest_;  // of the struct that is open
  std::string path_;               // of the struct that is open
  size_t depth_ = 0;
  std::optional<Error> error_;
};

}  // namespace rhea
