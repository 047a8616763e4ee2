#include "vmm/chardev/query_chardev.h"

#include <utility>

namespace rhea::vmm {

void add_chardev_commands(QmpCommandTable& table,
                          std::function<std::vector<const Chardev*>()> list) {
  table.add({"query-chardev", {}, [list = std::move(list)](const Json&) -> QmpResult {
               ReplyJson chardevs = ReplyJson::array();
               for (const Chardev* chardev : list()) {
                 ReplyJson json;
                 json["frontend-open"] = chardev->frontend_open();
                 json["filename"] = chardev->description();
                 json["label"] = chardev->label();
                 chardevs.push_back(std::move(json));
               }
               return chardevs;
             }});
}

}  // namespace rhea::vmm
