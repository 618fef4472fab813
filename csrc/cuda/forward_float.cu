#include "cuda/forward_kernel.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<accumulation_t<float>> find_forward_kernel<float>(Access access, int* components) {
  return find_instance<float>(access, components, FindForward<float>{});
}

}  // namespace mixnorm::cuda
