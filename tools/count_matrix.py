"""Counts the sweeps of joint mixtures of 8 and 16 components: matrix products and multiply-adds.

    python tools/count_matrix.py bench/compiled/cuda_matrix.json

fp32, contiguous, 64 channels, sm_90, per element of x; tools/count_cuda.py says how it is counted.
Needs nvcc, and Triton for nvdisasm.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import count_cuda
import toolchain
from triton_aot import LoopCounts, count_loop, registers_and_stack

MATRIX_SWEEPS = {
    "moments": "sum_matrix_moments<S, K, A>(g, p.x, p.table, p.partials, scratch, shared, sweep)",
    "normalize": "normalize_by_products<S, K, A>(g, p.x, p.y, p.table, scratch, shared, sweep)",
    "output_sums": (
        "sum_matrix_output_gradients<S, K, A>"
        "(g, p.tensors, p.table, p.partials, scratch, shared, sweep)"
    ),
    "input_gradient": (
        "differentiate_by_products<S, K, A>"
        "(g, p.tensors, p.table, p.arguments.responsibility_grad, scratch, shared, sweep)"
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
    kernel(const __grid_constant__ {problem}<float> p, int sweep) {{
  MIXNORM_DYNAMIC_SHARED(shared);
  Geometry g = p.geometry;
  g.resident = false;
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


def main(argv: list[str]) -> int:
    home = toolchain.find_cuda_home()
    if home is None or len(argv) != 1:
        print("count_matrix: expected the path to write, and nvcc", file=sys.stderr)
        return 2
    rows = []
    for components in (8, 16):
        for sweep in MATRIX_SWEEPS:
            for how, kind in kinds(components):
                registers, counts = _count(home, kind, sweep, components)
                rows.append({
                    "num_components": components,
                    "kernel": sweep,
                    "how": how,
                    "registers": registers,
                    **counts._asdict(),
                })  # fmt: skip
    content = {"compiler": f"nvcc {toolchain.nvcc_version(home)}", "target": "sm_90", "rows": rows}
    Path(argv[0]).write_text(json.dumps(content, indent=1) + "\n")
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
    cubin = count_cuda.compile_sweep(home, source)
    return registers_and_stack(cubin)[0], count_loop(cubin, kind.elements, "LDGSTS", kind.repeats)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
