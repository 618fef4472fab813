#include "cuda/per_channel_forward.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<accumulation_t<__half>> find_per_channel_forward_kernel<__half>(Access access,
                                                                              int* components) {
  return find_instance<__half>(access, components, FindPerChannelForward<__half>{});
}

}  // namespace mixnorm::cuda
