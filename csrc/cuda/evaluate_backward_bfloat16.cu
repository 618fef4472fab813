#include "cuda/evaluate_backward_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<__nv_bfloat16>> find_evaluate_backward_kernel<__nv_bfloat16>(
    Access access, int* components) {
  return find_instance<__nv_bfloat16>(access, components, FindEvaluateBackward<__nv_bfloat16>{});
}

}  // namespace mixnorm::cuda
