"""Which of PyTorch's tracers looks at the code that runs now."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

_C: Any = torch._C


def _is_exporting() -> bool:
    return torch.compiler.is_exporting()


# PyTorch 2.10's torch.compile takes torch.compiler.is_exporting for True while it traces; the
# function is called, not traced, where its result is declared constant.
exporting: Callable[[], bool] = torch.compiler.assume_constant_result(  # type: ignore[no-untyped-call]
    _is_exporting
)
"""Whether torch.export traces, whose graph must run where this package is not."""


def compiling() -> bool:
    """Whether torch.compile traces, for itself and not for torch.export."""
    return torch.compiler.is_compiling() and not exporting()


def transforming() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is at work."""
    return _C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def traced() -> bool:
    """Whether anything sees the single operations of this call, rather than only their results."""
    return torch.compiler.is_compiling() or transforming()
