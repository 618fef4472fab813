// What a kernel's source needs to be compiled and run as C++.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_types.h>

#include "emulation/arithmetic.h"
#include "emulation/builtins.h"
#include "emulation/launch.h"
#include "emulation/matrix.h"
#include "emulation/memory.h"
#include "emulation/synchronization.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
