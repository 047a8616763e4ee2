// A hostile QMP client: what it writes, how it cuts it and when it reads are the fuzzer's.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "tests/support/fake_chardev.h"
#include "tests/support/fake_vm.h"
#include "util/aio_context.h"
#include "util/bql.h"
#include "vmm/qmp/machine_commands.h"
#include "vmm/qmp/server.h"

using namespace rhea;

namespace {

/// Every line the server writes is JSON that ends in CR LF; a client that reads is never cut short.
void check_output(std::string_view output) {
  while (!output.empty()) {
    const size_t end = output.find("\r\n");
    RHEA_CHECK(end != output.npos, "half a line");
    RHEA_CHECK(vmm::parse_json(output.substr(0, end)).has_value(), "no JSON");
    output.remove_prefix(end + 2);
  }
}

void serve_one_client(std::string_view input, size_t piece, size_t room) {
  auto context = MUST(AioContext::create("fuzz"));
  BqlGuard guard;
  test::FakeVm vm;
  test::FakeChardev client;
  vmm::QmpCommandTable commands;
  vmm::add_machine_commands(commands, vm);
  vmm::QmpServer server(*context, vm, std::move(commands), {.package = "rhea-fuzz"},
                        {.output_bytes = 512, .event_bytes = 2048});
  server.add_monitor(client);
  client.event(devices::CharEvent::kOpened);
  client.type("{\"execute\":\"qmp_capabilities\"}");
  client.set_room(room);
  while (!input.empty()) {
    input.remove_prefix(client.type(input.substr(0, piece)));
    while (context->poll(PollMode::kNonBlocking)) {
    }
    if (client.frontend()->can_receive() == 0) client.make_room(room);
    while (context->poll(PollMode::kNonBlocking)) {
    }
  }
  client.make_room(test::FakeChardev::kUnlimited);
  while (context->poll(PollMode::kNonBlocking)) {
  }
  check_output(client.sent());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data + 2), size - 2);
  serve_one_client(input, 1 + data[0], 64 + 16 * size_t{data[1]});
  return 0;
}
