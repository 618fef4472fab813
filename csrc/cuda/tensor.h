// The tensors that the CUDA kernels take: device pointers. Contiguous positions (NCHW) and
// contiguous channels (NHWC) are accessed 4 elements at a time where every row starts on a multiple
// of 4, any other strides one element at a time; nothing is ever copied.
#pragma once

#include "device/tensor.h"

namespace mixnorm::cuda {

using device::Affine;
using device::BatchMoments;
using device::Input;
using device::Mixture;
using device::Output;
using device::Scalar;

}  // namespace mixnorm::cuda
