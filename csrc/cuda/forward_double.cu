#include "cuda/forward_kernel.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<accumulation_t<double>> find_forward_kernel<double>(Access access, int* components) {
  return find_instance<double>(access, components, FindForward<double>{});
}

}  // namespace mixnorm::cuda
