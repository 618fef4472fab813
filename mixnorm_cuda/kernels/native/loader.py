"""Loads the operator libraries on first use, and says why one is missing and how to get it.

``libmixnorm_cpu.so`` carries every operator schema and the CPU operators, ``libmixnorm_cuda.so``
the CUDA operators. They are loaded apart, so a missing CUDA runtime never costs the CPU operators.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from mixnorm_cuda.kernels.native import fake

LIBRARIES = ("cpu", "cuda")

_FOLDER = Path(__file__).parent
_REBUILD = "pip install --no-build-isolation ."
_HOW_TO_GET = {
    "cpu": f"install a C++ compiler and run '{_REBUILD}' in the source tree",
    "cuda": (
        "install a CUDA build of PyTorch and the CUDA toolkit of the same major version, "
        f"then run 'FORCE_CUDA=1 {_REBUILD}' in the source tree"
    ),
}


def library_path(library: str) -> Path:
    """Where the library lies when it was built."""
    return _FOLDER / f"libmixnorm_{library}.so"


def _missing(library: str) -> str | None:
    """Load ``library`` ("cpu" or "cuda"), once; why it is not there, or None when it is loaded."""
    if library not in LIBRARIES:
        raise ValueError(f"library={library!r}: expected one of {LIBRARIES}")
    return _load(library)


# torch.compile calls this instead of tracing into it.
missing: Callable[[str], str | None] = torch.compiler.assume_constant_result(_missing)  # type: ignore[no-untyped-call]


@functools.cache
def _load(library: str) -> str | None:
    if library == "cuda":
        # The schemas are in the CPU library.
        reason = _load("cpu")
        if reason is not None:
            return reason
    path = library_path(library)
    if not path.is_file():
        return (
            f"the {library.upper()} operator library was not built with this installation; "
            f"to get it, {_HOW_TO_GET[library]}"
        )
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        return (
            f"the {library.upper()} operator library {path.name} cannot be loaded ({error}); "
            f"to get one that fits this machine, {_HOW_TO_GET[library]}"
        )
    if library == "cpu":
        absent = fake.absent()
        if absent:
            return (
                f"the CPU operator library {path} was built from other sources, it lacks "
                f"{', '.join(absent)}; run '{_REBUILD}' in the source tree, or 'python setup.py "
                "build_ext --inplace' where it is installed in place"
            )
        fake.register()
    return None


def require(library: str) -> None:
    """Load ``library`` or raise RuntimeError with the reason and the remedy."""
    reason = missing(library)
    if reason is not None:
        raise RuntimeError(reason)
