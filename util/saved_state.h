// Saved state: what a device or a vCPU is, in bytes that a stranger may have written.
//
// The saved form of a thing is a plain struct that says once what is in it:
//
//   struct RtcState {
//     uint8_t index = 0;
//     std::array<uint8_t, 128> cmos{};
//     std::vector<AlarmState> alarms;
//     template <class Visitor, class Self>
//     static void describe(Visitor& v, Self& s) {
//       v.field("index", s.index);
//       v.field("cmos", s.cmos);
//       v.field("alarms", s.alarms, kMaxAlarms);
//     }
//   };
//
// encode_state(), decode_state() and state_schema() follow from it. A field is a bool, uint8_t to
// uint64_t or int64_t; std::array<uint8_t, N>; std::vector<uint8_t> or std::string with a bound;
// another described struct; or a std::array or bounded std::vector of those.
//
// The encoded form is little-endian and tells by itself what it holds, so that a tool can print it:
//
//   fields  = { field }
//   field   = length of name (u8) name type (u8) payload
//   payload = integer                                        types 1-6, of the type's size
//           | length (u32) bytes                             types 7 and 8
//           | length (u32) fields                            type 9, a struct
//           | length (u32) count (u32) { length (u32) fields }   type 10, a list of structs
//
// A length counts what follows it.
#pragma once

#include "util/state_reader.h"
#include "util/state_schema.h"
#include "util/state_writer.h"

namespace rhea {

/// The fields of `state`, encoded.
template <class T>
std::vector<uint8_t> encode_state(const T& state) {
  StateWriter writer;
  writer.write(state);
  return std::move(writer).take();
}

/// The state called `name` in messages, out of bytes from anywhere.
/// Errors: kCorrupt, see StateReader. Whether a value makes sense is for its owner to say.
template <class T>
Result<T> decode_state(std::string_view name, std::span<const uint8_t> bytes) {
  return StateReader(name, bytes).read<T>();
}

/// The text of the description of T: the same for the same fields, whatever the values.
template <class T>
std::string state_schema() {
  return StateSchema().take<T>();
}

/// An encoded state as JSON, in the order of its fields, without knowing what it is of. Bytes are
/// written in hexadecimal, what is not UTF-8 in a string is replaced.
/// Errors: kCorrupt, with the path of the field.
Result<std::string> state_to_json(std::span<const uint8_t> bytes);

}  // namespace rhea
