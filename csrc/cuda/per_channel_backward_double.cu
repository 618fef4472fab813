#include "cuda/per_channel_backward.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<double>> find_per_channel_backward_kernel<double>(Access access,
                                                                                int* components) {
  return find_instance<double>(access, components, FindPerChannelBackward<double>{});
}

}  // namespace mixnorm::cuda
