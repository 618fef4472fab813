"""Counts the machine code of the CUDA kernels' sweeps.

    python tools/count_cuda.py bench/compiled/cuda.json
    python tools/count_cuda.py --per-channel bench/compiled/cuda_per_channel.json

Each sweep is compiled as a kernel of its own for sm_90, for float32 and bfloat16 at K = 3 and every
way to reach elements, and its loop over tiles is counted, with the loops inside as often as a
thread runs them. "Kept" sweeps are those over tiles that stayed on chip since the sweep before.
Needs nvcc, and Triton for nvdisasm.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import toolchain
from triton_aot import count_loop, registers_and_stack

SHAPE = (64, 64, 56, 56)
COMPONENTS, THREADS = 3, 256
TYPES = {"float32": "float", "bfloat16": "__nv_bfloat16"}


class Layout(NamedTuple):
    """The plan of SHAPE: 16 lanes of 4 channels, 8 warps."""

    access: str
    elements: int
    """Of a tile that a thread holds."""
    channel_lanes: int
    """Of a warp, which shuffles add up; the others meet in shared memory."""
    positions: int
    """Of a tile: the responsibilities of each are one thread's work."""
    own_bytes: int | None
    """Where every channel has a mixture: of a thread's tile, in parts of 4 elements; None: one."""


PART = 4
LAYOUTS = {
    "contiguous": Layout("kPositions", 16, 2, 64, 32),
    "channels_last": Layout("kChannels", 16, 4, 64, 32),
    "odd rows": Layout("kElements", 8, 4, 32, None),
}
"""Rows of contiguous tensors are odd where their length is no multiple of 4."""
SWEEPS = {
    "moments": "sum_moments<S, 3, A>(g, p.x, p.table, p.partials, scratch, shared, sweep)",
    "normalize": "normalize<S, 3, A>(g, p.x, p.y, p.table, scratch, shared, sweep)",
    "output_sums": (
        "sum_output_gradients<S, 3, A>(g, p.tensors, p.table, p.partials, scratch, shared, sweep)"
    ),
    "input_gradient": (
        "differentiate_input<S, 3, A>"
        "(g, p.tensors, p.table, p.arguments.responsibility_grad, scratch, shared, sweep)"
    ),
}
KEPT = ("moments", "normalize", "input_gradient")
"""What follows another sweep over the same tiles: EM steps, and the second of each direction."""
PER_CHANNEL_SWEEPS = {
    "moments": (
        "sum_own_moments<S, 3, A>(g, p.x, p.table, p.partials, scratch.exchange, shared, sweep)"
    ),
    "normalize": "normalize_own<S, 3, A>(g, p.x, p.y, p.table, shared, sweep)",
    "output_sums": (
        "sum_own_output_gradients<S, 3, A>"
        "(g, p.tensors, p.table, p.partials, scratch.exchange, shared, sweep)"
    ),
    "input_gradient": (
        "differentiate_own<S, 3, A>(g, p.tensors, p.table, p.arguments.responsibility_grad, false,"
        " p.partials, scratch.exchange, shared, sweep)"
    ),
}
SOURCE = """
#include "cuda/per_channel_backward.cuh"
#include "cuda/per_channel_forward.cuh"
using namespace mixnorm::cuda;
using S = {type};
constexpr Access A = Access::{access};
__global__ void __launch_bounds__({bounds})
    kernel(const __grid_constant__ {problem}<float> p, int sweep) {{
  MIXNORM_DYNAMIC_SHARED(shared);
  Geometry g = p.geometry;
  g.resident = {kept};
  if (g.resident) {{  // the compiler sees that all tiles are kept
    g.slots = 0x7fffffff;
    sweep = 2;
  }}
  const Scratch<float, 3> scratch(shared, g, {tensors} * {tiles}<S, 3, A>::slot_bytes());
  {call};
}}
"""


def main(argv: list[str]) -> int:
    home = toolchain.find_cuda_home()
    per_channel = "--per-channel" in argv
    argv = [argument for argument in argv if argument != "--per-channel"]
    if home is None or len(argv) != 1:
        print("count_cuda: expected the path to write, and nvcc", file=sys.stderr)
        return 2
    rows = [
        _count(home, sweep, dtype, layout, per_channel, kept)
        for dtype in TYPES
        for layout in LAYOUTS
        for kept in (False, True)
        for sweep in (KEPT if kept else SWEEPS)
        if not (kept and per_channel)  # the counts above do for it
    ]
    content = {
        "compiler": f"nvcc {toolchain.nvcc_version(home)}",
        "target": "sm_90",
        "shape": SHAPE,
        "num_components": COMPONENTS,
        "groups": SHAPE[1] if per_channel else 1,
        "rows": rows,
    }
    Path(argv[0]).write_text(json.dumps(content, indent=1) + "\n")
    return 0


def compile_sweep(home: Path, source: str) -> bytes:
    """The cubin for sm_90."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "sweep.cu", Path(folder) / "sweep.cubin"
        path.write_text(source)
        flags = "-O3 -std=c++20 --expt-relaxed-constexpr -arch=sm_90 -I csrc -cubin -o"
        command = [str(home / "bin/nvcc"), *flags.split(), str(out), str(path)]
        subprocess.run(command, cwd=toolchain.ROOT, check=True)
        return out.read_bytes()


def _count(
    home: Path, sweep: str, dtype: str, name: str, per_channel: bool, kept: bool
) -> dict[str, object]:
    layout = LAYOUTS[name]
    backward = sweep in ("output_sums", "input_gradient")
    source = SOURCE.format(
        type=TYPES[dtype],
        access=layout.access,
        problem="BackwardProblem" if backward else "ForwardProblem",
        tensors=2 if backward else 1,
        kept="true" if kept else "false",
        call=(PER_CHANNEL_SWEEPS if per_channel else SWEEPS)[sweep],
        tiles="OwnTiles" if per_channel else "TileAccess",
        bounds="kOwnThreads, 2" if per_channel else "kMaxThreads<float, 3>, 1",
    )
    cubin = compile_sweep(home, source)
    size = {"float32": 4, "bfloat16": 2}[dtype]
    own = PART if layout.own_bytes is None else layout.own_bytes // size
    elements = own if per_channel else layout.elements
    warps = SHAPE[1] // 4 // layout.channel_lanes

    def repeats(found: set[str]) -> float:
        if per_channel:
            return elements / PART
        if "SHFL" in found:
            return layout.channel_lanes.bit_length() - 1
        # The loop over positions leaves what it finds, the one within it adds up the warps.
        return layout.positions / THREADS if "STS" in found else warps - 1

    # Single elements of two bytes have no asynchronous copy.
    counts = count_loop(cubin, elements, "LDG", repeats)
    registers, _ = registers_and_stack(cubin)
    tensors = 2 if backward else 1
    return {
        "dtype": dtype,
        "layout": name,
        "kernel": f"{sweep}, kept" if kept else sweep,
        "registers": registers,
        "threads": THREADS,
        "blocks": 65536 // (-(-registers // 8) * 8 * THREADS),
        "ring_bytes": 3 * tensors * elements * THREADS * size,
        **counts._asdict(),
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
