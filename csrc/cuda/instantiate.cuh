// The kernels that are compiled: for every access and bucket of components, of one element type.
#pragma once

#include <cuda_fp16.h>

#include <type_traits>

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

// As many kernels as compile in a few minutes: float and bfloat16 have one of their own for up to 4
// components of neighbouring elements; everything else is padded. compiled_components() of plan.h
// says the same.
template <class S, class Found>
auto find_instance(Access access, int* components, Found found) {
  constexpr bool kDouble = sizeof(S) == 8, kHalf = std::is_same_v<S, __half>;
  const auto find_vectors = [&]<Access kAccess>(Instance<0, kAccess>) {
    if constexpr (kHalf) {
      return find_among<kAccess, 3, 4>(components, found);
    } else {
      return find_among<kAccess, 1, 2, 3, 4>(components, found);
    }
  };
  if constexpr (kDouble) {
    return find_among<Access::kElements, 4, 8>(components, found);
  } else if (access == Access::kPositions) {
    return find_vectors(Instance<0, Access::kPositions>{});
  } else if (access == Access::kChannels) {
    return find_vectors(Instance<0, Access::kChannels>{});
  } else {
    return find_among<Access::kElements, 3, 8, 16>(components, found);
  }
}

// Likewise of the kernels by matrix products, which have no other accesses.
template <class Found>
auto find_matrix_instance(Access access, int* components, Found found) {
  return access == Access::kPositions ? find_among<Access::kPositions, 8, 16>(components, found)
                                      : find_among<Access::kChannels, 8, 16>(components, found);
}

}  // namespace mixnorm::cuda
