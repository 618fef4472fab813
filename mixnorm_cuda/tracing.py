"""Which of PyTorch's tracers looks at the code that runs now."""

from collections.abc import Callable

import torch


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
