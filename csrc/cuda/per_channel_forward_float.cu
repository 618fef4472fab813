#include "cuda/per_channel_forward.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<accumulation_t<float>> find_per_channel_forward_kernel<float>(Access access,
                                                                            int* components) {
  return find_instance<float>(access, components, FindPerChannelForward<float>{});
}

}  // namespace mixnorm::cuda
