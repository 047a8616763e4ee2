#include "devices/scsi/scsi_cdb.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <vector>

#include "devices/scsi/scsi_sense.h"

using namespace rhea::devices;

namespace {

using Cdb = std::array<uint8_t, ScsiRequest::kCdbSize>;

Cdb cdb_of(std::initializer_list<uint8_t> bytes) {
  Cdb cdb{};
  std::ranges::copy(bytes, cdb.begin());
  return cdb;
}
std::vector<uint8_t> written(size_t (*write)(const ScsiSense&, std::span<std::byte>) noexcept,
                             const ScsiSense& sense, size_t room = 64) {
  std::vector<uint8_t> bytes(64, 0xa5);
  const size_t size = write(sense, std::as_writable_bytes(std::span(bytes)).first(room));
  CHECK(size <= room);
  const auto rest = std::span(bytes).subspan(size);
  CHECK(std::ranges::all_of(rest, [](uint8_t b) { return b == 0xa5; }));
  bytes.resize(size);
  return bytes;
}

}  // namespace

TEST_CASE("ScsiCdb: the opcode's group says how long it is", "[scsi]") {
  struct Row {
    uint8_t opcode;
    size_t size;
  };
  for (const auto& [opcode, size] :
       {Row{0x00, 6}, Row{0x1f, 6}, Row{0x20, 10}, Row{0x5f, 10}, Row{0x60, 0}, Row{0x7e, 0},
        Row{0x80, 16}, Row{0x9f, 16}, Row{0xa0, 12}, Row{0xbf, 12}, Row{0xc0, 0}, Row{0xff, 0}}) {
    const Cdb cdb = cdb_of({opcode});
    INFO(std::hex << int{opcode});
    CHECK(ScsiCdb(cdb).size() == size);
  }
}

TEST_CASE("ScsiCdb: a CDB of variable length says it itself, if it is one that is carried",
          "[scsi]") {
  struct Row {
    uint8_t additional;
    size_t size;
  };
  for (const auto& [additional, size] :
       {Row{0, 8}, Row{24, 32}, Row{23, 0}, Row{28, 0}, Row{252, 0}, Row{255, 0}}) {
    const Cdb cdb = cdb_of({0x7f, 0, 0, 0, 0, 0, 0, additional});
    CHECK(ScsiCdb(cdb).size() == size);
  }
  Cdb read32 = cdb_of({0x7f, 0, 0, 0, 0, 0, 0, 24, 0, 9, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8});
  read32[31] = 3;
  CHECK(ScsiCdb(read32).range().lba == 0x0102030405060708);
  CHECK(ScsiCdb(read32).range().blocks == 3);
}

TEST_CASE("ScsiCdb: blocks and lists are where the group has them", "[scsi]") {
  const Cdb six = cdb_of({0x08, 0xff, 0xff, 0xff, 0, 0});
  CHECK(ScsiCdb(six).range().lba == 0x1f'ffff);
  CHECK(ScsiCdb(six).range().blocks == 256);
  CHECK(ScsiCdb(six).list_length() == 0);
  const Cdb ten = cdb_of({0x28, 0, 0xff, 2, 3, 4, 9, 5, 6, 9});
  CHECK(ScsiCdb(ten).range().lba == 0xff02'0304);
  CHECK(ScsiCdb(ten).range().blocks == 0x0506);
  CHECK(ScsiCdb(ten).list_length() == 0x0506);
  const Cdb twelve = cdb_of({0xa8, 0, 1, 2, 3, 4, 0xff, 6, 7, 8, 9, 9});
  CHECK(ScsiCdb(twelve).range().lba == 0x0102'0304);
  CHECK(ScsiCdb(twelve).range().blocks == 0xff06'0708);
  const Cdb sixteen = cdb_of({0x88, 0, 0xff, 2, 3, 4, 5, 6, 7, 8, 0xff, 2, 3, 4, 9, 9});
  CHECK(ScsiCdb(sixteen).range().lba == 0xff02'0304'0506'0708);
  CHECK(ScsiCdb(sixteen).range().blocks == 0xff02'0304);
}

TEST_CASE("ScsiSense: both formats, as much as there is room for", "[scsi]") {
  using Bytes = std::vector<uint8_t>;
  ScsiSense sense = sense::kReadError;
  CHECK(written(write_fixed_sense, sense) ==
        Bytes{0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0});
  CHECK(written(write_descriptor_sense, sense) == Bytes{0x72, 3, 0x11, 0, 0, 0, 0, 0});
  sense.information = 0x0102'0304;
  CHECK(written(write_fixed_sense, sense) ==
        Bytes{0xf0, 0, 3, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0});
  CHECK(written(write_descriptor_sense, sense) ==
        Bytes{0x72, 3, 0x11, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 1, 2, 3, 4});
  sense.information = 0x1'0000'0005;
  CHECK(written(write_fixed_sense, sense) ==
        Bytes{0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0});
  CHECK(written(write_descriptor_sense, sense).at(15) == 1);
  CHECK(written(write_fixed_sense, sense, 3) == Bytes{0x70, 0, 3});
  CHECK(written(write_descriptor_sense, sense, 0).empty());
}
