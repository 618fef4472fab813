"""What this installation was built with and which of its parts are usable."""

import platform
from typing import TypedDict

import torch

from mixnorm_cuda._version import __version__
from mixnorm_cuda.kernels.native import loader


class BuiltWith(TypedDict):
    """Facts recorded when the operator libraries were compiled."""

    compiler: str
    python: str
    torch: str
    cuda: str | None
    cuda_archs: list[str]


class LibraryState(TypedDict):
    """``path`` of a library that was built; ``missing`` says why it is not usable, or None."""

    path: str | None
    missing: str | None


class BuildConfig(TypedDict):
    """``built_with`` is None where nothing was compiled (a pure-Python installation)."""

    mixnorm_cuda: str
    python: str
    torch: str
    torch_cuda: str | None
    built_with: BuiltWith | None
    libraries: dict[str, LibraryState]


def build_config() -> BuildConfig:
    """Versions at run time, versions at build time, and the state of each operator library."""
    return {
        "mixnorm_cuda": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "built_with": _built_with(),
        "libraries": {library: _state(library) for library in loader.LIBRARIES},
    }


def _built_with() -> BuiltWith | None:
    try:
        from mixnorm_cuda.kernels.native import _C
    except ImportError:
        return None
    info = _C.build_info()
    return {
        "compiler": info["compiler"],
        "python": info["python"],
        "torch": info["torch"],
        "cuda": info["cuda"],
        "cuda_archs": (info["cuda_archs"] or "").replace(";", " ").split(),
    }


def _state(library: str) -> LibraryState:
    path = loader.library_path(library)
    return {
        "path": str(path) if path.is_file() else None,
        "missing": loader.missing(library),
    }
