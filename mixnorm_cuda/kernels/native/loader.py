"""Loads the operator libraries on first use, and says why one is missing and how to get it.

``libmixnorm_cpu.so`` carries every operator schema and the CPU operators, ``libmixnorm_cuda.so``
the CUDA operators. They are loaded apart, so a missing CUDA runtime never costs the CPU operators.
``libmixnorm_emulated.so``, for tests, runs the CUDA kernels' own source on the CPU, under a
namespace of its own.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

from mixnorm_cuda.kernels.native import registration

LIBRARIES = ("cpu", "cuda", "emulated")

_FOLDER = Path(__file__).parent
_REBUILD = "pip install --no-build-isolation ."
_HOW_TO_GET = {
    "cpu": f"install a C++ compiler and run '{_REBUILD}' in the source tree",
    "cuda": (
        "install a CUDA build of PyTorch and the CUDA toolkit of the same major version, "
        f"then run 'FORCE_CUDA=1 {_REBUILD}' in the source tree"
    ),
    "emulated": (
        f"run 'make emulation' or 'MIXNORM_EMULATION=1 {_REBUILD}' in the source tree (it is for "
        "the project's own tests)"
    ),
}
_NAMESPACE = {"cpu": "mixnorm", "emulated": "mixnorm_emulated"}


def library_path(library: str) -> Path:
    """Where the library lies when it was built; tests may name an emulated one built otherwise."""
    named = os.environ.get("MIXNORM_EMULATED_LIBRARY")
    if library == "emulated" and named:
        return Path(named)
    return _FOLDER / f"libmixnorm_{library}.so"


def _missing(library: str) -> str | None:
    """Load ``library`` (one of LIBRARIES), once; why it is not there, or None when it is loaded."""
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
    if library in _NAMESPACE:
        absent = registration.absent(_NAMESPACE[library])
        if absent:
            return (
                f"the {library.upper()} operator library {path} was built from other sources, it "
                f"lacks {', '.join(absent)}; run '{_REBUILD}' in the source tree, or 'python "
                "setup.py build_ext --inplace' where it is installed in place"
            )
        registration.register(_NAMESPACE[library])
    return None


def require(library: str) -> None:
    """Load ``library`` or raise RuntimeError with the reason and the remedy."""
    reason = missing(library)
    if reason is not None:
        raise RuntimeError(reason)
