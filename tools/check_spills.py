"""Compiles every CUDA kernel for each default architecture with register spills as errors.

A kernel that spills has outgrown its registers: it is slow, silently. Prints what each kernel takes
and how many of its blocks that leaves to a multiprocessor. Exits 1 on an error; where there is no
nvcc, says that the check was left out and exits 0. Arguments: architectures ("90"), for fewer.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import toolchain

FLAGS = ["-O3", "-std=c++20", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
REGISTERS, THREADS = 65536, 2048
"""Of a multiprocessor of every default architecture."""


class Kernel(NamedTuple):
    """One kernel's machine code."""

    name: str
    registers: int
    static_shared: int
    spilled: int
    """Bytes a thread stores to local memory for want of registers."""

    def blocks(self, threads: int) -> int:
        """Blocks of so many threads that registers and threads leave to a multiprocessor."""
        per_warp = -(-32 * self.registers // 256) * 256
        return min(REGISTERS // (per_warp * threads // 32), THREADS // threads)


def main(argv: list[str]) -> int:
    sources = toolchain.read_sources().get("cuda_kernels", [])
    home = toolchain.find_cuda_home()
    if home is None:
        print("check_spills: left out: no nvcc (set CUDA_HOME to the CUDA toolkit)")
        return 0
    archs = argv or [
        arch.removesuffix("+PTX").replace(".", "") for arch in toolchain.default_cuda_archs(home)
    ]
    jobs = [(source, arch) for source in sources for arch in archs]
    failed = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda job: _compile(home, job[0], job[1], Path(folder)), jobs)
        for (source, arch), (code, log) in zip(jobs, done, strict=True):
            found = list(kernels(log))
            spilling = [kernel for kernel in found if kernel.spilled]
            if code:
                print(f"check_spills: {source} for sm_{arch}:\n{log}", file=sys.stderr)
            for kernel in spilling:
                print(
                    f"check_spills: {source} for sm_{arch}: {kernel.name} spills {kernel.spilled} "
                    "bytes a thread, expected none",
                    file=sys.stderr,
                )
            failed += bool(code or spilling)
            for kernel in found:
                print(
                    f"sm_{arch}  {kernel.registers:3d} registers, {kernel.spilled} bytes spilled, "
                    f"{kernel.static_shared} bytes static shared, {kernel.blocks(256)} blocks of "
                    f"256 threads  {kernel.name}"
                )
    print(
        f"check_spills: {len(sources)} files for sm_{', sm_'.join(archs)} with CUDA "
        f"{toolchain.nvcc_version(home)}: {failed or 'none'} failed"
    )
    return 1 if failed else 0


def kernels(log: str) -> Iterator[Kernel]:
    """What ptxas -v says of each kernel."""
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?"
        r"Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
        log,
        re.S,
    )
    names = _demangled([mangled for mangled, *_ in found])
    for name, (_, spilled, registers, shared) in zip(names, found, strict=True):
        yield Kernel(name, int(registers), int(shared or 0), int(spilled))


def _demangled(names: list[str]) -> list[str]:
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return names
    plain = subprocess.run([tool, *names], capture_output=True, text=True, check=True).stdout
    return [
        re.sub(r"mixnorm::cuda::|^void |\(anonymous namespace\)::|\(\w*Problem.*", "", line)
        for line in plain.splitlines()
    ]


def _compile(home: Path, source: str, arch: str, folder: Path) -> tuple[int, str]:
    out = folder / f"{Path(source).stem}_{arch}.cubin"
    done = subprocess.run(
        [home / "bin/nvcc", *FLAGS, f"-arch=sm_{arch}", "-I", "csrc", "-cubin", "-o", out, source],
        cwd=toolchain.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
