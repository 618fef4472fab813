#include "cuda/per_channel_backward.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<float>> find_per_channel_backward_kernel<float>(Access access,
                                                                              int* components) {
  return find_instance<float>(access, components, FindPerChannelBackward<float>{});
}

}  // namespace mixnorm::cuda
