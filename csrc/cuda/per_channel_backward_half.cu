#include "cuda/per_channel_backward.cuh"

namespace mixnorm::cuda {

template <>
BackwardKernel<accumulation_t<__half>> find_per_channel_backward_kernel<__half>(Access access,
                                                                                int* components) {
  return find_instance<__half>(access, components, FindPerChannelBackward<__half>{});
}

}  // namespace mixnorm::cuda
