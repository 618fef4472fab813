#include "cpu/isa_tables.h"

#if defined(MIXNORM_X86)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw")
#define MIXNORM_VECTOR_BYTES 64
#include "cpu/isa.h"

namespace mixnorm::cpu {
const InstructionSet kAvx512 = {"avx512", &kernels32, &kernels64, kStaging};
}  // namespace mixnorm::cpu
#endif
