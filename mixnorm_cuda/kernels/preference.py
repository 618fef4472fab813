"""Which GPU backend ``"auto"`` tries first: the one measured to be faster for shapes of the kind.

``measured.json`` holds what ``python -m bench.preference`` found in the benchmark results that are
committed: for every major compute capability that has been measured, classes of shapes and the
backend that was faster there. Everything else takes Triton first.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

MEASURED = Path(__file__).with_name("measured.json")
GPU_BACKENDS = ("triton", "cuda")
SMALL_BYTES = 1 << 20
"""Of x, up to which calls cost more than kernels."""
ON_CHIP_BYTES = 32 << 20
"""Of x, up to which a large GPU's shared memory or cache can hold it."""
FEW_COMPONENTS = 4
"""Up to which multiply-adds take less time than memory; more need matrix products."""


def shape_class(x_bytes: int, half: bool, num_components: int, per_channel: bool) -> str:
    """The class of a shape, such as ``"on-chip, float, few components, joint"``.

    Args:
        x_bytes: of x.
        half: x is float16 or bfloat16.
        per_channel: every channel has a mixture of its own.
    """
    size = "small" if x_bytes <= SMALL_BYTES else "on-chip" if x_bytes <= ON_CHIP_BYTES else "large"
    return ", ".join((
        size,
        "half" if half else "float",
        "few components" if num_components <= FEW_COMPONENTS else "many components",
        "per channel" if per_channel else "joint",
    ))  # fmt: skip


def read(path: Path = MEASURED) -> dict[int, dict[str, str]]:
    """Major compute capability -> class -> the faster backend."""
    return {
        device["capability"]: {name: found["faster"] for name, found in device["classes"].items()}
        for device in json.loads(path.read_text())["devices"]
    }


# At import: torch.compile traces what follows.
FASTER = read()


def preferred(x: Tensor, num_components: int, groups: int) -> tuple[str, ...]:
    """The backends for ``x``, which is on a GPU, the one to try first at the front."""
    if not FASTER:
        return GPU_BACKENDS
    classes = FASTER.get(torch.cuda.get_device_capability(x.device)[0], {})
    name = shape_class(
        x.numel() * x.element_size(),
        x.element_size() == 2,
        num_components,
        1 < groups == x.shape[1],
    )
    return tuple(sorted(GPU_BACKENDS, key=classes.get(name, GPU_BACKENDS[0]).__ne__))
