// StateSchema: the text of a description. See saved_state.h.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "util/state_type.h"

namespace rhea {

/// Visits a description to write its text: "{index u8, cmos bytes[128], alarms [..4]{hour u8}}".
/// Two texts are equal exactly if each side can read what the other writes, as far as names, types
/// and bounds say.
/// Errors: none; a field without a name, or with that of its neighbour, is our bug.
class StateSchema {
 public:
  template <StateNumber T>
  void field(std::string_view name, const T&) {
    add(name, *internal::kStateTypeOf<T>);
  }
  template <size_t N>
  void field(std::string_view name, const std::array<uint8_t, N>&) {
    add(name, StateType::kBytes, exactly(N));
  }
  void field(std::string_view name, const std::vector<uint8_t>&, size_t max) {
    add(name, StateType::kBytes, up_to(max));
  }
  void field(std::string_view name, const std::string&, size_t max) {
    add(name, StateType::kString, up_to(max));
  }
  template <class T>
    requires std::is_class_v<T>
  void field(std::string_view name, const T&) {
    add(name, StateType::kStruct);
    nest<T>();
  }
  template <class T, size_t N>
  void field(std::string_view name, const std::array<T, N>&) {
    add(name, StateType::kList, exactly(N));
    nest<T>();
  }
  template <class T>
  void field(std::string_view name, const std::vector<T>&, size_t max) {
    add(name, StateType::kList, up_to(max));
    nest<T>();
  }

  template <class T>
  std::string take() && {
    nest<T>();
    return std::move(text_);
  }

 private:
  template <class T>
  void nest() {
    const T sample{};
    open();
    T::describe(*this, sample);
    close();
  }
  static std::string exactly(size_t count);
  static std::string up_to(size_t count);
  void add(std::string_view name, StateType type, std::string_view bound = {});
  void open();
  void close();

  std::string text_;
  std::vector<std::vector<std::string>> names_;  // of each struct that is open
};

}  // namespace rhea
