#include "cuda/evaluate_backward_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<float>> find_evaluate_backward_kernel<float>(Access access,
                                                                           int* components) {
  return find_instance<float>(access, components, FindEvaluateBackward<float>{});
}

}  // namespace mixnorm::cuda
