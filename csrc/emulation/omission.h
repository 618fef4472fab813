// Synchronization left out on purpose, to see that tests notice.
#pragma once

#include <source_location>
#include <string>

namespace mixnorm::emulation {

// The barriers, __syncwarp and waits for copies at this place, "sums.cuh:34", are passed over from
// now on; at none if it is empty. To be changed only while no kernel runs.
void omit_synchronization(const std::string& place);

// Whether to pass over the one at `where`, which is noted.
bool omitted(const std::source_location& where);

// Every place that kernels have synchronized at since the last call, separated by blanks.
std::string synchronization_places();

}  // namespace mixnorm::emulation
