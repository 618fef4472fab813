"""The collectives in use, as operators that return their result: compilers can trace them.

Every process of the group has to call them in the same order with the same shapes and dtypes.
"""

from typing import cast

import torch
from torch import Tensor, distributed

from mixnorm_cuda.distributed.processes import Processes

if distributed.is_available():
    # Registers what the operators do to fake tensors.
    import torch.distributed._functional_collectives


def gather(tensor: Tensor, processes: Processes) -> Tensor:
    """``[W, *shape]``: the ``tensor`` of every process, by rank."""
    parts = torch.ops._c10d_functional.all_gather_into_tensor(
        tensor.contiguous().flatten(), processes.size, processes.group
    )
    return _wait(parts).view(processes.size, *tensor.shape)


def total(tensor: Tensor, processes: Processes) -> Tensor:
    """The sum of all processes' ``tensor``; the same bits in each of them."""
    reduced = torch.ops._c10d_functional.all_reduce(tensor.contiguous(), "sum", processes.group)
    return _wait(reduced)


def from_first(tensor: Tensor, processes: Processes) -> Tensor:
    """The ``tensor`` of the group's rank 0."""
    sent = torch.ops._c10d_functional.broadcast(tensor.contiguous(), 0, processes.group)
    return _wait(sent)


def _wait(tensor: Tensor) -> Tensor:
    return cast(Tensor, torch.ops._c10d_functional.wait_tensor(tensor))
