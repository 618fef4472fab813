"""What this installation consists of and can use."""

from typing import Any

import torch

from mixnorm_cuda import dispatch
from mixnorm_cuda.kernels.native.build_config import build_config


def build_info() -> dict[str, Any]:
    """What this installation consists of and can use.

    Returns:
        versions (``mixnorm_cuda``, ``torch``, ``python``, what the libraries were built with),
        ``backends``: name -> None when usable, else why not and how to get it, and ``devices``.
    """
    return {
        **build_config(),
        "backends": {name: backend.missing() for name, backend in dispatch.BACKENDS.items()},
        "devices": _devices(),
    }


def _devices() -> list[str]:
    names = [f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"]
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        names.append(
            f"cuda:{index} {p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB"
        )
    return names
