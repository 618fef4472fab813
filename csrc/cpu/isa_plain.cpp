#include "cpu/isa_tables.h"

// 128-bit vectors: SSE2, which every x86-64 has, or Arm's NEON.
#define MIXNORM_VECTOR_BYTES 16
#include "cpu/isa.h"

namespace mixnorm::cpu {
const InstructionSet kPlain = {"plain", &kernels32, &kernels64, kStaging};
}  // namespace mixnorm::cpu
