// The kernels that are compiled: for every access and bucket of components, of one element type.
#pragma once

#include "cuda/geometry.h"

namespace mixnorm::cuda {

template <int K, Access kAccess>
struct Instance {};

// found(Instance<K, access>{}) for the smallest K of the list that is at least *components, which
// becomes K.
template <Access kAccess, int K, int... kMore, class Found>
auto find_among(int* components, Found found) {
  if constexpr (sizeof...(kMore) > 0) {
    if (*components > K) return find_among<kAccess, kMore...>(components, found);
  }
  *components = K;
  return found(Instance<K, kAccess>{});
}

// As many kernels as compile in a few minutes: neighbouring elements of up to 4 components have
// kernels of their own, others are padded. compiled_components() of plan.h says the same.
template <class S, class Found>
auto find_instance(Access access, int* components, Found found) {
  if constexpr (sizeof(S) == 8) {
    return find_among<Access::kElements, 4, 16>(components, found);
  } else if (access == Access::kPositions) {
    return find_among<Access::kPositions, 1, 2, 3, 4, 8>(components, found);
  } else if (access == Access::kChannels) {
    return find_among<Access::kChannels, 1, 2, 3, 4, 8>(components, found);
  } else {
    return find_among<Access::kElements, 3, 8, 16>(components, found);
  }
}

}  // namespace mixnorm::cuda
