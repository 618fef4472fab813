#include "cuda/evaluate_backward_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<double>> find_evaluate_backward_kernel<double>(Access access,
                                                                             int* components) {
  return find_instance<double>(access, components, FindEvaluateBackward<double>{});
}

}  // namespace mixnorm::cuda
