#include "cuda/per_channel_forward.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<accumulation_t<__nv_bfloat16>> find_per_channel_forward_kernel<__nv_bfloat16>(
    Access access, int* components) {
  return find_instance<__nv_bfloat16>(access, components, FindPerChannelForward<__nv_bfloat16>{});
}

}  // namespace mixnorm::cuda
