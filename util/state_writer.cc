#include "util/state_writer.h"

#include "util/check.h"

namespace rhea {

void StateWriter::put(uint64_t value, size_t size) {
  for (size_t index = 0; index < size; ++index) {
    out_.push_back(static_cast<uint8_t>(value >> (8 * index)));
  }
  RHEA_CHECK(out_.size() <= kMaxStateBytes);
}

void StateWriter::header(std::string_view name, StateType type) {
  RHEA_CHECK(!name.empty() && name.size() <= kMaxStateName, "field '{}'", name);
  put(name.size(), 1);
  out_.insert(out_.end(), name.begin(), name.end());
  put(static_cast<uint8_t>(type), 1);
}

void StateWriter::number(std::string_view name, StateType type, uint64_t value, size_t size) {
  header(name, type);
  put(value, size);
}

void StateWriter::bytes(std::string_view name, StateType type, std::span<const uint8_t> value,
                        size_t max) {
  RHEA_CHECK(value.size() <= max, "field '{}': {} bytes, at most {}", name, value.size(), max);
  header(name, type);
  put(value.size(), sizeof(uint32_t));
  out_.insert(out_.end(), value.begin(), value.end());
  RHEA_CHECK(out_.size() <= kMaxStateBytes);
}

void StateWriter::field(std::string_view name, const std::string& value, size_t max) {
  bytes(name, StateType::kString, std::vector<uint8_t>(value.begin(), value.end()), max);
}

size_t StateWriter::open(std::string_view name, StateType type) {
  header(name, type);
  return open_element();
}

size_t StateWriter::open_element() {
  RHEA_CHECK(++depth_ <= kMaxStateDepth);
  put(0, sizeof(uint32_t));
  return out_.size();
}

size_t StateWriter::open_list(std::string_view name, size_t count, size_t max) {
  RHEA_CHECK(count <= max, "field '{}': {} elements, at most {}", name, count, max);
  const size_t start = open(name, StateType::kList);
  put(count, sizeof(uint32_t));
  return start;
}

void StateWriter::close(size_t start) {
  const size_t length = out_.size() - start;
  for (size_t index = 0; index < sizeof(uint32_t); ++index) {
    out_[start - sizeof(uint32_t) + index] = static_cast<uint8_t>(length >> (8 * index));
  }
  --depth_;
}

}  // namespace rhea
