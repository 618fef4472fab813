#include "cuda/backward_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<float>> find_backward_kernel<float>(Access access, int* components) {
  return find_instance<float>(access, components, FindBackward<float>{});
}

}  // namespace mixnorm::cuda
