#include "cuda/backward_kernel.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<__half>> find_backward_kernel<__half>(Access access,
                                                                    int* components) {
  return find_instance<__half>(access, components, FindBackward<__half>{});
}

}  // namespace mixnorm::cuda
