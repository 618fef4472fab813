"""Ahead-of-time compilation of the Triton kernels, without a GPU.

The launch code itself runs, on meta tensors, with the function that starts a kernel replaced by one
that compiles it: what is checked is what a user's call would compile.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mixnorm_cuda.kernels.triton import launch, problem

BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
MULTIPROCESSORS = {80: 108, 90: 132, 100: 148}
_TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.bool: "i1",
}


@dataclass
class Compiled:
    """One kernel for one architecture."""

    name: str
    capability: int
    grid: tuple[int, ...]
    constants: dict[str, Any]
    warps: int
    ptx: str
    cubin: bytes = field(repr=False)
    registers: int = 0
    stack: int = 0
    shared: int = 0

    @property
    def tile(self) -> str:
        c = self.constants
        sizes = "x".join(str(c[s]) for s in ("BLOCK_C", "BLOCK_P", "BLOCK_J") if s in c)
        return " ".join([sizes, *(str(c[s]) for s in ("NU", "DLOG") if s in c)])


def compile_kernel(
    kernel: Any, arguments: tuple[Any, ...], sizes: dict[str, Any], num_warps: int, capability: int
) -> tuple[str, bytes]:
    """PTX and cubin of ``kernel`` as Triton would specialize it for these arguments."""
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | sizes
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        value = values[name]
        if isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif name in sizes or value is None or value == 1:
            signature[name] = "constexpr"
            constants[(index,)] = value
        elif isinstance(value, float):
            signature[name] = "fp64"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "enable_fp_fusion": True},
    )
    return compiled.asm["ptx"], compiled.asm["cubin"]


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers a thread, bytes of stack a thread, bytes of shared memory a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [BIN / "cuobjdump", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resources: {text!r}")
    registers, stack, shared, local = map(int, found.groups())
    return registers, max(stack, local), shared


@contextmanager
def compiling(capability: int) -> Iterator[list[Compiled]]:
    """Inside, launches on meta tensors compile; the list collects what they compiled."""
    found: list[Compiled] = []

    def compile_instead(
        kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int, **sizes: Any
    ) -> None:
        ptx, cubin = compile_kernel(kernel, arguments, sizes, num_warps, capability)
        name = kernel.__name__.strip("_").removesuffix("_kernel")
        found.append(
            Compiled(name, capability, grid, sizes, num_warps, ptx, cubin, *resources(cubin))
        )

    before: tuple[Callable[..., Any], Callable[..., Any]] = launch.run, problem.multiprocessors
    launch.run = compile_instead
    problem.multiprocessors = lambda device: MULTIPROCESSORS[capability]
    try:
        yield found
    finally:
        launch.run, problem.multiprocessors = before
