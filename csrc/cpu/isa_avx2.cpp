#include "cpu/isa_tables.h"

#if defined(MIXNORM_X86)
#pragma GCC target("avx2,fma,f16c,prfchw")
#define MIXNORM_VECTOR_BYTES 32
#include "cpu/isa.h"

namespace mixnorm::cpu {
const InstructionSet kAvx2 = {"avx2", &kernels32, &kernels64, kStaging};
}  // namespace mixnorm::cpu
#endif
