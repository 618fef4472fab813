#include "emulation/diagnosis.h"

#include <cstring>
#include <map>
#include <sstream>
#include <string_view>

namespace mixnorm::emulation {
namespace {

constexpr size_t kMostPlaces = 8;

const char* name_of(const Thread& thread) {
  switch (thread.wait) {
    case Wait::kBlock:
      return "waits at the barrier";
    case Wait::kCluster:
      return "waits at the cluster's barrier";
    case Wait::kSleep:
      return "spins";
    case Wait::kReturned:
      return "has returned";
    case Wait::kNothing:
      return "runs";
    case Wait::kWarp:
      break;
  }
  switch (thread.collective) {
    case Collective::kShuffle:
      return "waits in a shuffle";
    case Collective::kVote:
      return "waits in a vote";
    case Collective::kMultiply:
      return "waits in a matrix product";
    default:
      return "waits at __syncwarp";
  }
}

bool waits(const Thread& thread) {
  return thread.wait != Wait::kReturned && thread.wait != Wait::kNothing;
}

}  // namespace

std::string describe(const std::source_location& where) {
  std::string_view file = where.file_name();
  file.remove_prefix(file.rfind('/') + 1);  // npos + 1 is 0
  std::ostringstream text;
  text << file << ':' << where.line();
  return text.str();
}

std::string describe(const Thread& thread) {
  std::ostringstream text;
  text << "block " << thread.block->index << ", thread " << thread.index << ' ' << name_of(thread);
  if (waits(thread)) text << ", " << describe(thread.where);
  if (thread.wait == Wait::kWarp) text << ", mask 0x" << std::hex << thread.mask;
  return text.str();
}

bool same_place(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

std::string what_they_wait_for(const std::vector<const Block*>& blocks) {
  struct Place {
    const Thread* first;
    size_t threads;
  };
  std::map<std::string, Place> places;
  for (const Block* block : blocks) {
    for (unsigned t = 0; t < block->size; ++t) {
      const Thread& thread = block->threads[t];
      if (thread.wait == Wait::kNothing) continue;
      const std::string key = name_of(thread) + (waits(thread) ? describe(thread.where) : "");
      ++places.try_emplace(key, Place{&thread, 0}).first->second.threads;
    }
  }
  std::ostringstream text;
  size_t count = 0;
  for (const auto& [key, place] : places) {
    if (count++ == kMostPlaces) break;
    text << (count > 1 ? "; " : "") << describe(*place.first);
    if (place.threads > 1) text << " and " << place.threads - 1 << " more";
  }
  return text.str();
}

}  // namespace mixnorm::emulation
