#include "cuda/matrix_backward.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<float> find_matrix_backward_kernel<float>(Access access, int* components) {
  return find_matrix_instance(access, components, FindMatrixBackward<float>{});
}

}  // namespace mixnorm::cuda
