#include "cuda/matrix_forward.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<float> find_matrix_forward_kernel<__nv_bfloat16>(Access access, int* components) {
  return find_matrix_instance(access, components, FindMatrixForward<__nv_bfloat16>{});
}

}  // namespace mixnorm::cuda
