#include "cuda/per_channel_backward.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<__nv_bfloat16>> find_per_channel_backward_kernel<__nv_bfloat16>(
    Access access, int* components) {
  return find_instance<__nv_bfloat16>(access, components, FindPerChannelBackward<__nv_bfloat16>{});
}

}  // namespace mixnorm::cuda
