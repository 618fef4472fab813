// Where threads wait, in words.
#pragma once

#include <source_location>
#include <string>
#include <vector>

#include "emulation/threads.h"

namespace mixnorm::emulation {

std::string describe(const std::source_location& where);
std::string describe(const Thread& thread);
bool same_place(const std::source_location& a, const std::source_location& b);

// The waiting threads of some blocks, those that wait at the same place together.
std::string what_they_wait_for(const std::vector<const Block*>& blocks);

}  // namespace mixnorm::emulation
