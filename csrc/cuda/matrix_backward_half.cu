#include "cuda/matrix_backward.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<float> find_matrix_backward_kernel<__half>(Access access, int* components) {
  return find_matrix_instance(access, components, FindMatrixBackward<__half>{});
}

}  // namespace mixnorm::cuda
