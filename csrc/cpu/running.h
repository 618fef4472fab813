// Running statistics: mass-weighted averages, updated in place. Torch-free.
#pragma once

#include <cstdint>

#include "cpu/tensor.h"

namespace mixnorm::cpu {

// Moves the running mixture towards the moments of a batch of `count` positions with weight
// `factor`, unless one of them is not finite; returns whether all were. Small (components x
// channels), so on one thread. All contiguous: [G, K], [K, C], [K, C].
template <class T>
bool update_running(int64_t groups, int64_t components, int64_t channels, const Mixture<T>& running,
                    const BatchMoments<const T>& moments, int64_t count, double factor);

}  // namespace mixnorm::cpu
