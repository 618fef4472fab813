// What the tests of the emulation share.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <string>

#include "emulation/device.h"
#include "tests/check.h"

namespace mixnorm::tests {

constexpr int kSeeds = 10;

// f() under several schedules.
template <class F>
void for_seeds(F&& f) {
  for (int seed = 0; seed < kSeeds; ++seed) {
    mixnorm::emulation::schedule_seed() = seed;
    f();
  }
}

inline bool mentions(cudaError_t error, const char* words) {
  const std::string text = cudaGetErrorString(error);
  (void)cudaGetLastError();
  if (error != cudaSuccess && text.find(words) != std::string::npos) return true;
  std::fprintf(stderr, "expected an error with \"%s\", found: %s\n", words, text.c_str());
  return false;
}

inline void check_success(cudaError_t error) {
  if (error != cudaSuccess) std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  CHECK(error == cudaSuccess);
}

}  // namespace mixnorm::tests
