"""Bytes kept for the backward, and the most the device had allocated in a step."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bench.cases import Case
from bench.layers import Layer, run_step


def saved_bytes(case: Case, layer: Layer, x: Tensor) -> int | None:
    """Bytes of all storages a training forward keeps for its backward, x's own included."""
    if case.phase not in ("train", "forward"):
        return None
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        y = layer.forward(x)
    del y
    return sum(storages.values())


def peak_bytes(case: Case, layer: Layer, x: Tensor, dy: Tensor) -> int | None:
    """Most bytes allocated during a step beyond what was before it; None on a CPU."""
    if x.device.type != "cuda":
        return None
    torch.cuda.synchronize(x.device)
    before = torch.cuda.memory_allocated(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    run_step(case, layer, x, dy)
    torch.cuda.synchronize(x.device)
    return torch.cuda.max_memory_allocated(x.device) - before
