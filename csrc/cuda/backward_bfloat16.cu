#include "cuda/backward_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<__nv_bfloat16>> find_backward_kernel<__nv_bfloat16>(Access access,
                                                                                  int* components) {
  return find_instance<__nv_bfloat16>(access, components, FindBackward<__nv_bfloat16>{});
}

}  // namespace mixnorm::cuda
