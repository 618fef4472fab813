// MIXNORM_DYNAMIC_SHARED(name): the block's dynamic shared memory as `unsigned char* name`, aligned
// to 128 bytes. The only place that knows how it is declared.
#pragma once

#include <cuda_runtime.h>

#if defined(MIXNORM_EMULATION)
#define MIXNORM_DYNAMIC_SHARED(name) \
  unsigned char* const name = ::mixnorm::emulation::dynamic_shared_memory()
#else
#define MIXNORM_DYNAMIC_SHARED(name)                                       \
  extern __shared__ __align__(128) unsigned char mixnorm_dynamic_shared[]; \
  unsigned char* const name = mixnorm_dynamic_shared
#endif
