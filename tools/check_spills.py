"""Compiles every CUDA kernel for each default architecture with register spills as errors.

A kernel that spills has outgrown its registers: it is slow, silently. Exits 1 on an error; where
there is no nvcc, says that the check was left out and exits 0.
"""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import toolchain

FLAGS = ["-O3", "-std=c++20", "--expt-relaxed-constexpr", "-Xptxas", "-warn-spills,-Werror"]


def main() -> int:
    sources = toolchain.read_sources().get("cuda_kernels", [])
    home = toolchain.find_cuda_home()
    if home is None:
        print("check_spills: left out: no nvcc (set CUDA_HOME to the CUDA toolkit)")
        return 0
    archs = [
        arch.removesuffix("+PTX").replace(".", "") for arch in toolchain.default_cuda_archs(home)
    ]
    jobs = [(source, arch) for source in sources for arch in archs]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        failed = sum(pool.map(lambda job: _compile(home, job[0], job[1], Path(folder)), jobs))
    print(
        f"check_spills: {len(sources)} files for sm_{', sm_'.join(archs)} with CUDA "
        f"{toolchain.nvcc_version(home)}: {failed or 'none'} failed"
    )
    return 1 if failed else 0


def _compile(home: Path, source: str, arch: str, folder: Path) -> bool:
    out = folder / f"{Path(source).stem}_{arch}.cubin"
    done = subprocess.run(
        [home / "bin/nvcc", *FLAGS, f"-arch=sm_{arch}", "-I", "csrc", "-cubin", "-o", out, source],
        cwd=toolchain.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"check_spills: {source} for sm_{arch}:\n{done.stdout}{done.stderr}", file=sys.stderr)
    return done.returncode != 0


if __name__ == "__main__":
    raise SystemExit(main())
