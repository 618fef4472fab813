#include "cuda/forward_kernel.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<accumulation_t<__half>> find_forward_kernel<__half>(Access access, int* components) {
  return find_instance<__half>(access, components, FindForward<__half>{});
}

}  // namespace mixnorm::cuda
