#include "cuda/mixture_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<__half>> find_mixture_kernel<__half>(Access access, int* components) {
  return find_instance<__half>(access, components, FindMixture<__half>{});
}

}  // namespace mixnorm::cuda
