"""Counts the sweeps of joint mixtures of 8 and 16 components: matrix products and multiply-adds.

    python tools/count_matrix.py

Prints bench/README.md's table: fp32, contiguous, sm_90, per element of x; tools/count_cuda.py says
how it is counted. Needs nvcc, and Triton for nvdisasm.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import count_cuda
import toolchain
from triton_aot import LoopCounts, _registers, count_loop

# An H200's data sheet: instructions of a lane, products of a warp's four schedulers, bytes.
LANES_PER_S, BYTES_PER_S = 132 * 128 * 1.98e9, 4.8e12
CYCLES_OF_A_PRODUCT = 4
PASSES = {"moments": 1, "normalize": 2, "output_sums": 2, "input_gradient": 3}
MATRIX_SWEEPS = {
    "moments": "sum_matrix_moments<S, K, A>(g, p.x, p.table, p.partials, scratch, shared, p.steps)",
    "normalize": "normalize_by_products<S, K, A>(g, p.x, p.y, p.table, scratch, shared, p.steps)",
    "output_sums": (
        "sum_matrix_output_gradients<S, K, A>"
        "(g, p.tensors, p.table, p.partials, scratch, shared, 0)"
    ),
    "input_gradient": (
        "differentiate_by_products<S, K, A>"
        "(g, p.tensors, p.table, p.arguments.responsibility_grad, scratch, shared, 1)"
    ),
}
SOURCE = """
#include "cuda/matrix_backward.cuh"
#include "cuda/matrix_forward.cuh"
using namespace mixnorm::cuda;
using S = float;
constexpr int K = {components};
constexpr Access A = Access::{access};
__global__ void __launch_bounds__({threads}, 1)
    sweep(const __grid_constant__ {problem}<float> p) {{
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  const Scratch<float, K> scratch(shared, g, {tensors} * {tiles}::slot_bytes());
  {call};
}}
"""


class Kind(NamedTuple):
    """How sweeps are made of products or of multiply-adds, at 64 channels."""

    sweeps: dict[str, str]
    access: str
    tiles: str
    elements: int
    """Of a tile that a thread holds."""
    repeats: Callable[[set[str]], float]
    """How often a thread runs a loop of these operations within that over tiles."""


def kinds(components: int) -> Iterator[tuple[str, Kind]]:
    # Positions of a tile, warps of channels. Shuffles add up 4 lanes in two steps.
    positions, warps = (32, 4) if components == 8 else (16, 8)

    def single(found: set[str]) -> float:
        positions_of = positions / count_cuda.THREADS
        return 2.0 if "SHFL" in found else positions_of if "STS" in found else warps - 1

    sweeps = {k: v.replace("<S, 3, A>", "<S, K, A>") for k, v in count_cuda.SWEEPS.items()}
    held = 8 if components == 8 else 4
    yield "multiply-adds", Kind(sweeps, "kElements", "TileAccess<S, K, A>", held, single)

    # Halves of the channels or of the components; a position for a thread's lanes, in which there
    # are 4 warps of channels.
    def products(found: set[str]) -> float:
        return 2.0 if "HMMA" in found else 1.0 if "SHFL" in found else 4.0

    yield "products", Kind(MATRIX_SWEEPS, "kPositions", "MatrixTiles<S, A>", 16, products)


def main() -> int:
    home = toolchain.find_cuda_home()
    if home is None:
        print("count_matrix: expected nvcc", file=sys.stderr)
        return 2
    print(
        "|  K | kernel | sums by | registers | instructions | of them products | issue bound, ps "
        "| tensor cores, ps | memory bound, ps | on a GPU |"
    )
    print("|---:|---|---|---:|---:|---:|---:|---:|---:|---|")
    for components in (8, 16):
        for sweep in PASSES:
            for how, kind in kinds(components):
                registers, counts = _count(home, kind, sweep, components)
                bounds = (
                    counts.instructions / LANES_PER_S,
                    counts.matrix * CYCLES_OF_A_PRODUCT / LANES_PER_S,
                    4 * PASSES[sweep] / BYTES_PER_S,
                )
                print(
                    f"| {components} | {sweep} | {how} | {registers} | {counts.instructions:.1f} "
                    f"| {counts.matrix:.1f} | "
                    + " | ".join(f"{bound * 1e12:.2f}" for bound in bounds)
                    + " | not measured |",
                    flush=True,
                )
    return 0


def _count(home: Path, kind: Kind, sweep: str, components: int) -> tuple[int, LoopCounts]:
    backward = sweep in ("output_sums", "input_gradient")
    matrix = kind.access != "kElements"
    kernel = "kMatrixBackwardThreads<S, K>" if backward else "kMatrixThreads<K>"
    source = SOURCE.format(
        components=components,
        access=kind.access,
        threads=f"({kernel})" if matrix else "(kMaxThreads<float, K>)",
        problem="BackwardProblem" if backward else "ForwardProblem",
        tensors=2 if backward else 1,
        tiles=kind.tiles,
        call=kind.sweeps[sweep],
    )
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "sweep.cu", Path(folder) / "sweep.cubin"
        path.write_text(source)
        flags = "-O3 -std=c++20 --expt-relaxed-constexpr -arch=sm_90 -I csrc -cubin -o"
        command = [str(home / "bin/nvcc"), *flags.split(), str(out), str(path)]
        subprocess.run(command, cwd=toolchain.ROOT, check=True)
        cubin = out.read_bytes()
    return _registers(cubin)[0], count_loop(cubin, kind.elements, "LDGSTS", kind.repeats)


if __name__ == "__main__":
    raise SystemExit(main())
