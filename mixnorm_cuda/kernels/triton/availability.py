"""Why the Triton kernels are not usable on this machine, and how to get them. No Triton here."""

import functools
import importlib.util
import os
import shlex
import shutil
import sysconfig
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

MIN_VERSION = (3, 6)
"""What PyTorch 2.10 comes with; tuples in loops, which the kernels use, are young."""
MIN_CAPABILITY = (8, 0)
"""Ampere: the oldest generation that the kernels are compiled for ahead of time."""


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _missing_here() -> str | None:
    """Why no input can be served here, with the remedy; None when some can."""
    return _missing(interpreted())


# torch.compile calls this instead of tracing into it.
missing: Callable[[], str | None] = torch.compiler.assume_constant_result(_missing_here)


@functools.cache
def _missing(interpreter: bool) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; install a CUDA build of PyTorch, which brings it along"
    try:
        installed = version("triton")
    except PackageNotFoundError:
        installed = "0"
    if _release(installed) < MIN_VERSION:
        wanted = ".".join(map(str, MIN_VERSION))
        return (
            f"Triton {installed} is too old, the kernels need {wanted} or later; install the one "
            "that PyTorch 2.10 or later comes with"
        )
    if interpreter:
        return _no_interpreter(_release(installed))
    if not torch.cuda.is_available():
        return (
            "torch finds no CUDA device; use backend='auto', or set TRITON_INTERPRET=1 to run the "
            "kernels slowly on CPU tensors"
        )
    if torch.version.cuda is None:
        return "this PyTorch is built for another GPU maker's devices; install a CUDA build"
    old = [_too_old(index) for index in range(torch.cuda.device_count())]
    return old[0] if all(old) else _no_compiler()


def _no_interpreter(release: tuple[int, int]) -> str | None:
    """Triton 3.6 converts arrays of one element to numbers, which numpy 2.4 gave up."""
    numpy = version("numpy")
    if release > MIN_VERSION or _release(numpy) < (2, 4):
        return None
    return f"the interpreter of Triton 3.6 needs numpy below 2.4 and finds {numpy}; install one"


@functools.cache
def _too_old(index: int) -> str | None:
    """Why CUDA device number ``index`` is not served; None when it is."""
    capability = torch.cuda.get_device_capability(index)
    if capability >= MIN_CAPABILITY:
        return None
    name, has, needs = (
        torch.cuda.get_device_name(index),
        ".".join(map(str, capability)),
        ".".join(map(str, MIN_CAPABILITY)),
    )
    return (
        f"{name} has compute capability {has}, the Triton kernels need {needs} (Ampere) or later; "
        "use backend='reference' on this GPU"
    )


too_old: Callable[[int], str | None] = torch.compiler.assume_constant_result(_too_old)


def _no_compiler() -> str | None:
    """Triton compiles a small C launcher for each kernel signature: it needs a C compiler."""
    chosen = os.environ.get("CC")
    names = (shlex.split(chosen)[0],) if chosen else ("gcc", "clang", "cc")
    if not any(shutil.which(name) for name in names):
        asked = f"CC={chosen!r} is not executable" if chosen else "no gcc, clang or cc on PATH"
        return f"Triton's launcher needs a C compiler and there is none ({asked}); install gcc"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return (
            "Triton's launcher needs Python's headers and Python.h is not in "
            f"{sysconfig.get_path('include')}; install the python3-dev package"
        )
    return None


def _release(text: str) -> tuple[int, int]:
    parts = text.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return (0, 0)
