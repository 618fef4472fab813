// The operators below are compiled twice: for CUDA tensors, and, with kernels that are emulated,
// for CPU tensors under a namespace of their own.
#pragma once

#include <torch/csrc/stable/library.h>

#if defined(MIXNORM_EMULATION)
#define MIXNORM_CUDA_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(mixnorm_emulated, CPU, m)
#define MIXNORM_CUDA_FUNCTIONS(m) \
  STABLE_TORCH_LIBRARY_IMPL(mixnorm_emulated, CompositeExplicitAutograd, m)
#else
#define MIXNORM_CUDA_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(mixnorm, CUDA, m)
// There is no tensor to find the device by, so these serve every dispatch key.
#define MIXNORM_CUDA_FUNCTIONS(m) STABLE_TORCH_LIBRARY_IMPL(mixnorm, CompositeExplicitAutograd, m)
#endif
