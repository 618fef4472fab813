"""Ahead-of-time compilation of the Triton kernels, without a GPU.

The launch code itself runs, on meta tensors, with the function that starts a kernel replaced by one
that compiles it: what is checked is what a user's call would compile.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mixnorm_cuda.kernels.triton import (
    config,
    launch,
    launch_backward,
    launch_evaluate,
    launch_forward,
    problem,
)
from mixnorm_cuda.types import Mixture

BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
MULTIPROCESSORS = {80: 108, 90: 132, 100: 148}
_TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.bool: "i1",
}


class Layer(NamedTuple):
    """A layer whose kernels are compiled."""

    shape: tuple[int, ...]
    components: int = 3
    groups: int = 1
    dtype: str = "float32"
    channels_last: bool = False

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        size = "x".join(map(str, self.shape))
        return f"{size} {self.dtype} {layout} K={self.components} G={self.groups}"


@dataclass
class Compiled:
    """One kernel for one architecture."""

    name: str
    grid: tuple[int, ...]
    sizes: dict[str, Any]
    warps: int
    shared: int
    cubin: bytes = field(repr=False)
    registers: int = 0
    stack: int = 0
    """Bytes of stack and local memory a thread: a frame, or room for what is spilled."""
    spills: int = 0
    """Instructions that move a register to or from local memory."""

    def __post_init__(self) -> None:
        self.registers, self.stack = registers_and_stack(self.cubin)
        if self.stack:
            local = re.compile(r"\b(STL|LDL)\b")
            self.spills = sum(bool(local.search(line)) for line in _disassembled(self.cubin))

    @property
    def tile(self) -> str:
        sizes = "x".join(str(self.sizes[s]) for s in ("BLOCK_C", "BLOCK_P") if s in self.sizes)
        return " ".join([sizes, *(str(self.sizes[s]) for s in ("NU", "DLOG") if s in self.sizes)])


class LoopCounts(NamedTuple):
    """What one element costs in a kernel's loop over tiles, counted in its machine code."""

    instructions: float
    arithmetic: float
    """FFMA, FMUL and FADD among them."""
    shuffles: float
    matrix: float
    """HMMA: products of the matrix units."""
    bytes: float
    """Loaded from and stored to global memory."""


def compile_layer(
    layer: Layer, capability: int, only: tuple[str, ...] | None = None
) -> list[Compiled]:
    """All kernels of the layer's training step, with an EM step if K > 1, and of eval; or those
    whose names are in ``only``."""
    x = torch.empty(layer.shape, dtype=getattr(torch, layer.dtype), device="meta")
    if layer.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    statistics = torch.float64 if layer.dtype == "float64" else torch.float32

    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=statistics, device="meta")

    k, c = layer.components, layer.shape[1]
    mixture = Mixture(empty(layer.groups, k), empty(k, c), empty(k, c))
    affine = (empty(c), empty(c))
    common: dict[str, Any] = {"eps": 1e-5, "mixing_scale": True}
    with _compiling(capability, only) as found:
        out = launch_forward.forward(x, mixture, *affine, em_iters=min(k - 1, 1), **common)
        launch_backward.backward(
            x, x, out.responsibilities, out.moments, out.mixture, *affine,
            responsibility_grad=True, mixture_grad=False, **common,
        )  # fmt: skip
        launch_evaluate.evaluate(x, mixture, *affine, **common)
        launch_evaluate.evaluate_backward(
            x, x, mixture, *affine, responsibility_grad=True, **common
        )
    return found


def compile_moments(
    shape: tuple[int, ...], components: int, dtype: str, capability: int, *, dot: bool
) -> list[Compiled]:
    """The sweeps of a training step's moments and ν, by `tl.dot` or by multiply-adds."""
    budget = replace(config.BUDGETS["moments"], dot_components=1 if dot else 0)
    x = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")

    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=torch.float32, device="meta")

    c = shape[1]
    mixture = Mixture(empty(1, components), empty(components, c), empty(components, c))
    sweeps = ("responsibilities", "moments", "dot_moments")
    with config.using({"moments": budget}), _compiling(capability, sweeps) as found:
        launch_forward.forward(x, mixture, None, None, eps=1e-5, em_iters=0, mixing_scale=True)
    return found


def loop_counts(kernel: Compiled) -> LoopCounts:
    """Per element of the tile."""
    elements = kernel.sizes["BLOCK_C"] * kernel.sizes["BLOCK_P"] / (32 * kernel.warps)
    return count_loop(kernel.cubin, elements)


def count_loop(
    cubin: bytes,
    elements: float,
    holding: str = "",
    repeats: Callable[[set[str]], float] = lambda operations: 1.0,
) -> LoopCounts:
    """The longest loop of one kernel's machine code, whose threads hold so many elements.

    ``holding``: an operation that it must have. ``repeats`` says how often a thread runs a loop
    within it, or within such a one, that has these operations.
    """
    lines = _disassembled(cubin)
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"^\.(L_x_\d+):", line))}
    found = (re.search(r"\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", line) for line in lines)
    operations = [m[1] if m else "" for m in found]
    jumps = [
        (labels[m[1]], i)
        for i, line in enumerate(lines)
        if (m := re.search(r"BRA `\(\.(L_x_\d+)\)", line)) and labels.get(m[1], i) < i
    ]
    jumps.sort(key=lambda jump: jump[0] - jump[1])
    begin, end = next(
        (first, last)
        for first, last in jumps
        if any(operation.startswith(holding) for operation in operations[first:last])
    )
    weights = [1.0] * len(lines)
    inner: list[tuple[int, int]] = []  # the longest first
    for first, last in jumps:
        apart = (last < a or first > b or (a < first and last < b) for a, b in inner)
        if begin < first and last < end and all(apart):
            inner.append((first, last))
            times = repeats({op.split(".")[0] for op in operations[first : last + 1]})
            for i in range(first, last + 1):
                weights[i] *= times

    counts: Counter[str] = Counter()
    for operation, weight in zip(operations[begin:end], weights[begin:end], strict=True):
        if operation:
            counts[operation] += weight  # type: ignore[assignment]

    def total(*stems: str) -> float:
        return float(sum(n for op, n in counts.items() if op.split(".")[0] in stems) / elements)

    moved = sum(n * _width(op) for op, n in counts.items() if op.startswith(("LDG", "STG")))
    return LoopCounts(
        sum(counts.values()) / elements,
        total("FFMA", "FMUL", "FADD"),
        total("SHFL"),
        total("HMMA"),
        moved / elements,
    )


def _width(operation: str) -> int:
    """Bytes that a load or store moves for a thread."""
    bits = re.search(r"\.(?:[US]?(8|16)|(64|128))(?:\.|$)", operation)
    return int(bits[1] or bits[2]) // 8 if bits else 4


def _disassembled(cubin: bytes) -> list[str]:
    return _tool("nvdisasm", "-c", cubin).splitlines()


def registers_and_stack(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, bytes of stack and local memory a thread."""
    text = _tool("cuobjdump", "-res-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resources: {text!r}")
    return int(found[1]), int(found[2]) + int(found[3])


def _tool(name: str, option: str, cubin: bytes) -> str:
    """What one of the tools that Triton ships prints about a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(BIN / name), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def _compiling(capability: int, only: tuple[str, ...] | None = None) -> Iterator[list[Compiled]]:
    """Inside, launches on meta tensors compile; the list collects what they compiled."""
    found: list[Compiled] = []

    def compile_instead(
        kernel: Any,
        grid: tuple[int, ...],
        *arguments: Any,
        num_warps: int,
        registers: int | None = None,
        **sizes: Any,
    ) -> None:
        name = kernel.__name__.strip("_").removesuffix("_kernel")
        if only is not None and name not in only:
            return
        options = {"num_warps": num_warps, "maxnreg": registers, "enable_fp_fusion": True}
        compiled = _compile(kernel, arguments, sizes, options, capability)
        shared = compiled.metadata.shared
        found.append(Compiled(name, grid, sizes, num_warps, shared, compiled.asm["cubin"]))

    run, multiprocessors = launch.run, problem.multiprocessors
    launch.run = compile_instead
    problem.multiprocessors = lambda device: MULTIPROCESSORS[capability]  # type: ignore[assignment]
    try:
        with config.on_capability(capability // 10):
            yield found
    finally:
        launch.run, problem.multiprocessors = run, multiprocessors


def _compile(
    kernel: Any,
    arguments: tuple[Any, ...],
    sizes: dict[str, Any],
    options: dict[str, Any],
    capability: int,
) -> Any:
    """``kernel`` as Triton would specialize it for these arguments, with aligned pointers."""
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | sizes
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for index, name in enumerate(kernel.arg_names):
        value = values[name]
        if isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif name in sizes or value is None or value == 1:
            signature[name] = "constexpr"
            constants[(index,)] = value
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
