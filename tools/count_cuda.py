"""Counts the machine code of the CUDA kernels' sweeps.

    python tools/count_cuda.py bench/compiled/cuda.json
    python tools/count_cuda.py --per-channel bench/compiled/cuda_per_channel.json
    python tools/count_cuda.py --matrix bench/compiled/cuda_matrix.json

Each sweep is compiled as a kernel of its own for sm_90, for float32 and bfloat16 in both layouts at
K = 3, and its loop over tiles is counted, with the loops inside as often as a thread runs them.
``--matrix``: at K = 8 and 16, by matrix products and, of single elements, by multiply-adds. Needs
nvcc, and Triton for nvdisasm.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import toolchain
from triton_aot import _registers, count_loop

SHAPE = (64, 64, 56, 56)
THREADS = 256
"""The plan of SHAPE: 16 lanes of 4 channels, 8 warps, 16 elements a thread; where every channel has
a mixture, 8 positions of one channel or 4 of two."""
POSITIONS = 64
"""Of a tile: the responsibilities of each are one thread's work."""
TYPES = {"float32": "float", "bfloat16": "__nv_bfloat16"}
LAYOUTS = {"contiguous": "kPositions", "channels_last": "kChannels"}
SWEEPS = {
    "moments": "sum_moments<S, K, A>(g, p.x, p.table, p.partials, scratch, shared, 0)",
    "normalize": "normalize<S, K, A>(g, p.x, p.y, p.table, scratch, shared, 1)",
    "output_sums": (
        "sum_output_gradients<S, K, A>(g, p.tensors, p.table, p.partials, scratch, shared, 0)"
    ),
    "input_gradient": (
        "differentiate_input<S, K, A>"
        "(g, p.tensors, p.table, p.arguments.responsibility_grad, scratch, shared, 1)"
    ),
}
PER_CHANNEL_SWEEPS = {
    "moments": (
        "sum_own_moments<S, K, A>(g, p.x, p.table, p.partials, scratch.exchange, shared, 0)"
    ),
    "normalize": "normalize_own<S, K, A>(g, p.x, p.y, p.table, shared, 1)",
    "output_sums": (
        "sum_own_output_gradients<S, K, A>"
        "(g, p.tensors, p.table, p.partials, scratch.exchange, shared, 0)"
    ),
    "input_gradient": (
        "differentiate_own<S, K, A>(g, p.tensors, p.table, p.arguments.responsibility_grad, false,"
        " p.partials, scratch.exchange, shared, 1)"
    ),
}
MATRIX_SWEEPS = {
    "moments": "sum_matrix_moments<S, K, A>(g, p.x, p.table, p.partials, scratch, shared, 0)",
    "normalize": "normalize_by_products<S, K, A>(g, p.x, p.y, p.table, scratch, shared, 1)",
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
#include "cuda/per_channel_backward.cuh"
#include "cuda/per_channel_forward.cuh"
using namespace mixnorm::cuda;
using S = {type};
constexpr int K = {components};
constexpr Access A = Access::{access};
__global__ void __launch_bounds__({bounds})
    sweep(const __grid_constant__ {problem}<float> p) {{
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  const Scratch<float, K> scratch(shared, g, {tensors} * {tiles}::slot_bytes());
  {call};
}}
"""


class Kind(NamedTuple):
    """Sweeps that are made and counted alike."""

    sweeps: dict[str, str]
    tiles: str
    bounds: tuple[str, str]
    """Of the forward's and the backward's kernels."""
    elements: int
    """That a thread holds of a tile."""
    repeats: Callable[[set[str]], float]
    """How often a thread runs a loop of these operations within that over tiles."""
    components: int = 3
    nested: bool = False
    """Whether loops within such loops are counted by themselves."""


# Shuffles add up 4 lanes of channels in two steps; other loops are over a tile's positions.
JOINT = Kind(
    SWEEPS,
    "TileAccess<S, K, A>",
    ("kMaxThreads<float, K>, 1",) * 2,
    16,
    lambda found: 2.0 if "SHFL" in found else POSITIONS / THREADS,
)
PER_CHANNEL = JOINT._replace(
    sweeps=PER_CHANNEL_SWEEPS,
    tiles="OwnTiles<S, K, A>",
    bounds=("kOwnThreads, 2",) * 2,
    elements=8,
)


def matrix(components: int) -> Kind:
    """Sweeps by matrix products: 4 channels of 4 positions a thread, 4 warps of channels.

    Loops that shuffle are over units of a position and a part of the components, of which a thread
    has one; within them, over the warps of channels. Other loops are of halves.
    """

    def repeats(found: set[str]) -> float:
        return 2.0 if "HMMA" in found else 1.0 if "SHFL" in found else 4.0

    bounds = ("kMatrixThreads<K>, 1", "(kMatrixBackwardThreads<S, K>), 1")
    return Kind(MATRIX_SWEEPS, "MatrixTiles<S, A>", bounds, 16, repeats, components, nested=True)


def single_elements(components: int) -> Kind:
    """Those of single elements, at K = 8 or 16: 4 channels of 2 positions a thread or 2 of 2.

    Loops over a tile's 32 or 16 positions have one over 4 or 8 warps of channels within.
    """
    positions, warps = (32, 4) if components == 8 else (16, 8)

    def repeats(found: set[str]) -> float:
        return 2.0 if "SHFL" in found else positions / THREADS if "STS" in found else warps

    elements = 8 if components == 8 else 4
    return JOINT._replace(elements=elements, repeats=repeats, components=components, nested=True)


def main(argv: list[str]) -> int:
    home = toolchain.find_cuda_home()
    options = {argument for argument in argv if argument.startswith("--")}
    paths = [argument for argument in argv if argument not in options]
    if home is None or len(paths) != 1 or options - {"--per-channel", "--matrix"}:
        print("count_cuda: expected the path to write, and nvcc", file=sys.stderr)
        return 2
    content = {
        "compiler": f"nvcc {toolchain.nvcc_version(home)}",
        "target": "sm_90",
        "shape": SHAPE,
        "groups": SHAPE[1] if "--per-channel" in options else 1,
    }
    if "--matrix" in options:
        content["rows"] = [
            {"num_components": components, "how": how, **row}
            for components in (8, 16)
            for how, kind, layouts in (
                ("multiply-adds", single_elements(components), {"any": "kElements"}),
                ("matrix products", matrix(components), LAYOUTS),
            )
            for row in _rows(home, kind, layouts)
        ]
    else:
        content["num_components"] = 3
        kind = PER_CHANNEL if "--per-channel" in options else JOINT
        content["rows"] = _rows(home, kind, LAYOUTS)
    Path(paths[0]).write_text(json.dumps(content, indent=1) + "\n")
    return 0


def _rows(home: Path, kind: Kind, layouts: dict[str, str]) -> list[dict[str, object]]:
    jobs = [
        (sweep, dtype, layout, access)
        for dtype in TYPES
        for layout, access in layouts.items()
        for sweep in kind.sweeps
    ]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: _count(home, kind, *job), jobs))


def _count(
    home: Path, kind: Kind, sweep: str, dtype: str, layout: str, access: str
) -> dict[str, object]:
    backward = sweep in ("output_sums", "input_gradient")
    tensors = 2 if backward else 1
    source = SOURCE.format(
        type=TYPES[dtype],
        components=kind.components,
        access=access,
        problem="BackwardProblem" if backward else "ForwardProblem",
        tensors=tensors,
        call=kind.sweeps[sweep],
        tiles=kind.tiles,
        bounds=kind.bounds[backward],
    )
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "sweep.cu", Path(folder) / "sweep.cubin"
        path.write_text(source)
        flags = "-O3 -std=c++20 --expt-relaxed-constexpr -arch=sm_90 -I csrc -cubin -o"
        command = [str(home / "bin/nvcc"), *flags.split(), str(out), str(path)]
        subprocess.run(command, cwd=toolchain.ROOT, check=True)
        cubin = out.read_bytes()
    # The loop over tiles copies the next; what is single and small is copied by plain loads.
    copies = "LDG.E.U16" if (access, dtype) == ("kElements", "bfloat16") else "LDGSTS"
    counts = count_loop(cubin, kind.elements, copies, kind.repeats, nested=kind.nested)
    registers, _ = _registers(cubin)
    size = {"float32": 4, "bfloat16": 2}[dtype]
    return {
        "dtype": dtype,
        "layout": layout,
        "kernel": sweep,
        "registers": registers,
        "threads": THREADS,
        "blocks": 65536 // (-(-registers // 8) * 8 * THREADS),
        "ring_bytes": 3 * tensors * kind.elements * THREADS * size,
        **counts._asdict(),
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
