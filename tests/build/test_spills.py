"""tools/check_spills.py can fail, and says when it could not look."""

import pytest
import toolchain
from project import Project

SPILLS = """
__global__ void __launch_bounds__(1024, 2) sums_kernel(const float* x, float* y) {
  float value[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) value[i] = x[i * 1024 + threadIdx.x];
  for (int step = 0; step < 100; ++step) {
#pragma unroll
    for (int i = 0; i < 96; ++i) value[i] = value[i] * value[(i + 41) % 96] + y[step];
  }
#pragma unroll
  for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = value[i];
}
"""


def test_without_nvcc_it_says_so(project: Project) -> None:
    outcome = project.python("tools/check_spills.py")
    assert outcome.status == 0
    assert outcome.stdout.startswith("check_spills: left out: no nvcc")


@pytest.mark.slow
@pytest.mark.skipif(toolchain.find_cuda_home() is None, reason="no nvcc")
def test_a_spill_is_an_error(project: Project) -> None:
    (project.root / "csrc/cuda/sums.cu").write_text(SPILLS)
    project.keep_sources("cuda_kernels cuda/sums.cu")
    outcome = project.python("tools/check_spills.py", CUDA_HOME=str(toolchain.find_cuda_home()))
    assert outcome.status == 1, outcome.output
    assert "csrc/cuda/sums.cu for sm_90" in outcome.stderr
    assert "spill" in outcome.stderr
