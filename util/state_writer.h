// StateWriter: a described struct becomes bytes. See saved_state.h.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "util/state_type.h"

namespace rhea {

/// Visits a description to write down what it describes.
/// Errors: none; a container above its own bound and a state nested too deeply are our bugs.
class StateWriter {
 public:
  template <StateNumber T>
  void field(std::string_view name, const T& value) {
    number(name, *internal::kStateTypeOf<T>, static_cast<uint64_t>(value), sizeof(T));
  }
  template <size_t N>
  void field(std::string_view name, const std::array<uint8_t, N>& value) {
    bytes(name, StateType::kBytes, value, N);
  }
  void field(std::string_view name, const std::vector<uint8_t>& value, size_t max) {
    bytes(name, StateType::kBytes, value, max);
  }
  void field(std::string_view name, const std::string& value, size_t max);
  template <class T>
    requires std::is_class_v<T>
  void field(std::string_view name, const T& value) {
    const size_t start = open(name, StateType::kStruct);
    T::describe(*this, value);
    close(start);
  }
  template <class T, size_t N>
  void field(std::string_view name, const std::array<T, N>& values) {
    list(name, std::span<const T>(values), N);
  }
  template <class T>
  void field(std::string_view name, const std::vector<T>& values, size_t max) {
    list(name, std::span<const T>(values), max);
  }

  /// The fields of a whole state.
  template <class T>
  void write(const T& state) {
    T::describe(*this, state);
  }
  std::vector<uint8_t> take() && { return std::move(out_); }

 private:
  template <class T>
  void list(std::string_view name, std::span<const T> values, size_t max) {
    const size_t start = open_list(name, values.size(), max);
    for (const T& value : values) {
      const size_t element = open_element();
      T::describe(*this, value);
      close(element);
    }
    close(start);
  }

  void header(std::string_view name, StateType type);
  void number(std::string_view name, StateType type, uint64_t value, size_t size);
  void bytes(std::string_view name, StateType type, std::span<const uint8_t> value, size_t max);
  size_t open(std::string_view name, StateType type);
  size_t open_list(std::string_view name, size_t count, size_t max);
  size_t open_element();
  /// Puts the length before what was written since the place that open() returned.
  void close(size_t start);
  void put(uint64_t value, size_t size);

  std::vector<uint8_t> out_;
  size_t depth_ = 0;
};

}  // namespace rhea
