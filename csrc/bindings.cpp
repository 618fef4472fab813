// Every operator's schema. The implementations register themselves in ops/, those of CUDA in a
// library of their own that is loaded after this one.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mixnorm, m) {
  m.def(
      "moments(Tensor x, Tensor mixing_weight, Tensor mean, Tensor var, float eps)"
      " -> (Tensor mass, Tensor mean, Tensor var)");
  m.def(
      "cuda_device_info(int device) -> (int multiprocessors, int shared_memory_per_block,"
      " int l2_bytes, int binary_version, int ptx_version)");
}
