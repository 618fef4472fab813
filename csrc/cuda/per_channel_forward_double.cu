#include "cuda/per_channel_forward.cuh"

namespace mixnorm::cuda {

template <>
ForwardKernel<accumulation_t<double>> find_per_channel_forward_kernel<double>(Access access,
                                                                              int* components) {
  return find_instance<double>(access, components, FindPerChannelForward<double>{});
}

}  // namespace mixnorm::cuda
