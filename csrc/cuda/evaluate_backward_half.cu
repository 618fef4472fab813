#include "cuda/evaluate_backward_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<__half>> find_evaluate_backward_kernel<__half>(Access access,
                                                                             int* components) {
  return find_instance<__half>(access, components, FindEvaluateBackward<__half>{});
}

}  // namespace mixnorm::cuda
