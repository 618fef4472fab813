#include "cuda/matrix_forward.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<float> find_matrix_forward_kernel<float>(Access access, int* components) {
  return find_matrix_instance(access, components, FindMatrixForward<float>{});
}

}  // namespace mixnorm::cuda
