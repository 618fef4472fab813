#include "cuda/backward_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<double>> find_backward_kernel<double>(Access access,
                                                                    int* components) {
  return find_instance<double>(access, components, FindBackward<double>{});
}

}  // namespace mixnorm::cuda
