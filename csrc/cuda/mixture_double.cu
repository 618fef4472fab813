#include "cuda/mixture_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<double>> find_mixture_kernel<double>(Access access, int* components) {
  return find_instance<double>(access, components, FindMixture<double>{});
}

}  // namespace mixnorm::cuda
