// FormatPage: what migration/FORMAT.md shows, for tests to compare with what the code does.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "util/check.h"

namespace rhea::migration::test {

/// A part of the page that is compared follows a line `<!-- bytes: NAME -->` or
/// `<!-- table: NAME -->`, and the first line of text behind it ends it.
/// Errors: none; a page that does not have what a test asks for, or has it in another form, aborts.
class FormatPage {
 public:
  FormatPage() : text_(read()) {}

  /// An indented block. A line is bytes in hexadecimal or `N times XX`, then three blanks or the
  /// end.
  std::vector<std::byte> bytes(std::string_view name) const {
    std::vector<std::byte> found;
    for (const std::string& line : part("bytes", name, "    ")) {
      const std::string shown = line.substr(4, line.find("   ", 4) - 4);
      std::istringstream words(shown);
      std::string word, times;
      size_t count = 1;
      if (const size_t at = shown.find(" times "); at != shown.npos) {
        words >> count >> times;
      }
      while (words >> word) {
        RHEA_CHECK(word.size() == 2 && word.find_first_not_of("0123456789abcdef") == word.npos,
                   "no byte: '{}' in '{}'", word, line);
        found.insert(found.end(), count, static_cast<std::byte>(std::stoi(word, nullptr, 16)));
      }
    }
    return found;
  }

  /// The rows of a table, without its head: the text of each cell.
  std::vector<std::vector<std::string>> table(std::string_view name) const {
    std::vector<std::vector<std::string>> rows;
    for (const std::string& line : part("table", name, "|")) {
      rows.emplace_back();
      for (size_t at = 1; at < line.size();) {
        const size_t end = line.find('|', at);
        rows.back().push_back(trimmed(line.substr(at, end - at)));
        at = end + 1;
      }
    }
    rows.erase(rows.begin(), rows.begin() + 2);
    return rows;
  }

 private:
  static std::string trimmed(const std::string& text) {
    const size_t first = text.find_first_not_of(' ');
    return first == text.npos ? "" : text.substr(first, text.find_last_not_of(' ') - first + 1);
  }

  // The build folder has a link to each source folder, at a place that is known from ours.
  static std::string read() {
    const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
    const auto build = self.parent_path().parent_path().parent_path();
    std::ifstream file(build / "layer" / "migration" / "migration" / "FORMAT.md");
    RHEA_CHECK(file.good(), "no FORMAT.md in the layers of {}", build.string());
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  std::vector<std::string> part(std::string_view kind, std::string_view name,
                                std::string_view prefix) const {
    const std::string marker = "<!-- " + std::string(kind) + ": " + std::string(name) + " -->\n";
    const size_t at = text_.find(marker);
    RHEA_CHECK(at != text_.npos, "FORMAT.md has no {}", marker);
    std::istringstream rest(text_.substr(at + marker.size()));
    std::vector<std::string> lines;
    for (std::string line; std::getline(rest, line);) {
      if (line.starts_with(prefix)) {
        lines.push_back(line);
      } else if (!line.empty()) {
        break;
      }
    }
    RHEA_CHECK(!lines.empty(), "FORMAT.md has nothing behind {}", marker);
    return lines;
  }

  const std::string text_;
};

}  // namespace rhea::migration::test
