// The tensors that the CPU kernels take. Contiguous positions (NCHW) and contiguous channels (NHWC)
// are read in place; any other strides work through a copy of each tile.
#pragma once

#include "device/tensor.h"

namespace mixnorm::cpu {

using device::Affine;
using device::BatchMoments;
using device::Input;
using device::Mixture;
using device::Output;
using device::Scalar;

}  // namespace mixnorm::cpu
