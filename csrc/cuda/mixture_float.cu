#include "cuda/mixture_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<float>> find_mixture_kernel<float>(Access access, int* components) {
  return find_instance<float>(access, components, FindMixture<float>{});
}

}  // namespace mixnorm::cuda
