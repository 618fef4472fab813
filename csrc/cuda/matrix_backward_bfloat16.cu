#include "cuda/matrix_backward.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<float> find_matrix_backward_kernel<__nv_bfloat16>(Access access, int* components) {
  return find_matrix_instance(access, components, FindMatrixBackward<__nv_bfloat16>{});
}

}  // namespace mixnorm::cuda
