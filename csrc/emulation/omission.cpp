#include "emulation/omission.h"

#include <set>
#include <string_view>
#include <utility>

#include "emulation/diagnosis.h"
#include "emulation/scheduler.h"

namespace mixnorm::emulation {
namespace {

std::string omitted_place;
bool any_omitted = false;

// By the line and the address of the file's name.
std::set<std::pair<unsigned, const char*>> places;

}  // namespace

void omit_synchronization(const std::string& place) {
  omitted_place = place;
  any_omitted = !place.empty();
}

bool omitted(const std::source_location& where) {
  // One thread's notes are enough, and cheaper.
  if (current->index == 0) places.emplace(where.line(), where.file_name());
  return any_omitted && describe(where) == omitted_place;
}

std::string synchronization_places() {
  std::set<std::string> names;
  for (const auto& [line, file] : std::exchange(places, {})) {
    std::string_view name = file;
    name.remove_prefix(name.rfind('/') + 1);
    names.insert(std::string(name) + ':' + std::to_string(line));
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : " ") + name;
  return text;
}

}  // namespace mixnorm::emulation
