// The kernels that are compiled: for every access and bucket of components, of one element type.
#pragma once

#include "cuda/geometry.h"

namespace mixnorm::cuda {

template <int K, Access kAccess>
struct Instance {};

// found(Instance<K, access>{}) for the smallest compiled K of at least *components, which becomes
// K. Up to 4 components have kernels of their own; beyond, they are padded to 8 or 16. Double has
// fewer, and takes elements one by one, as 16 components do.
template <class S, class Found, int K, int... kMore>
auto find_among(Access access, int* components, Found found) {
  if constexpr (sizeof...(kMore) > 0) {
    if (*components > K) return find_among<S, Found, kMore...>(access, components, found);
  }
  *components = K;
  if constexpr (sizeof(S) < 8 && K <= 8) {
    if (access == Access::kPositions) return found(Instance<K, Access::kPositions>{});
    if (access == Access::kChannels) return found(Instance<K, Access::kChannels>{});
  }
  return found(Instance<K, Access::kElements>{});
}

template <class S, class Found>
auto find_instance(Access access, int* components, Found found) {
  if constexpr (sizeof(S) == 8) {
    return find_among<S, Found, 1, 4, 16>(access, components, found);
  } else {
    return find_among<S, Found, 1, 2, 3, 4, 8, 16>(access, components, found);
  }
}

}  // namespace mixnorm::cuda
