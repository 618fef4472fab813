"""Budgets measured on this machine instead of the committed ones, on request.

With ``MIXNORM_AUTOTUNE=1`` the first call of an operator for a setting (device, sizes, layout,
precision) times it under other budgets, one number of one kernel at a time, and writes the
fastest to a file of the user's cache directory; later calls and processes with the variable take it
from there. Without it nothing is measured and no file is read: a step's time has no surprise.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from mixnorm_cuda.kernels.triton import config
from mixnorm_cuda.kernels.triton.config import Budget

VARIABLE = "MIXNORM_AUTOTUNE"
SWEEPS = {
    "moments": ("moments",),
    "forward": ("fused_forward", "moments", "normalize"),
    "backward": ("fused_backward", "output_sums", "input_gradient"),
    "normalize": ("normalize",),
    "backward_sums": ("output_sums",),
    "backward_apply": ("input_gradient",),
    "evaluate": ("evaluate",),
    "evaluate_backward": ("evaluate_gradient",),
}
"""The kernels whose budgets an operator's time depends on."""
CANDIDATES = {
    "channel_registers": (36, 72, 96, 144),
    "position_registers": (8, 16, 32),
    "elements": (8, 16, 32),
    "threads": (64, 128, 256),
    "resident_threads": (256, 384, 512, 768, 1024),
    "program_elements": (0, 2**16),
    "dot_components": (0, 1),
}

Budgets = dict[str, Budget]
Result = TypeVar("Result")


def enabled() -> bool:
    return os.environ.get(VARIABLE, "0") == "1"


def cache_file() -> Path:
    """Where tuned budgets are kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "mixnorm_cuda" / "triton.json"


def milliseconds(call: Callable[[], object]) -> float:
    """Time of ``call`` on the device."""
    from triton.testing import do_bench

    return float(do_bench(call, warmup=5, rep=20))


def run(operator: str, setting: str, call: Callable[[], Result]) -> Result:
    """``call()`` under the budgets tuned for ``operator`` in ``setting``, tuned now if need be.

    ``call`` is repeated while tuning, so it must not change anything.
    """
    if not enabled():
        return call()
    key = f"{operator} {setting}"
    known = _load(cache_file())
    if key not in known and not _capturing():
        known[key] = tune(operator, call)
        _save(cache_file(), known)
    with config.using(known.get(key, {})):
        return call()


def tune(operator: str, call: Callable[[], object]) -> Budgets:
    """The fastest budgets found by changing one number at a time."""
    best = {kernel: config.BUDGETS[kernel] for kernel in SWEEPS[operator]}
    fastest = _time(best, call)
    for kernel in best:
        for name, values in CANDIDATES.items():
            if not getattr(best[kernel], name):
                continue  # not a number of this kernel
            for value in values:
                budget = dataclasses.replace(best[kernel], **{name: value})
                candidate = best | {kernel: budget}
                time = _time(candidate, call)
                if time < fastest:
                    best, fastest = candidate, time
    return best


def _time(budgets: Budgets, call: Callable[[], object]) -> float:
    with config.using(budgets):
        return milliseconds(call)


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@functools.cache
def _load(path: Path) -> dict[str, Budgets]:
    """What ``path`` has; nothing if it cannot be read or is of another version."""
    try:
        return {
            key: {kernel: Budget(**numbers) for kernel, numbers in budgets.items()}
            for key, budgets in json.loads(path.read_text()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save(path: Path, known: dict[str, Budgets]) -> None:
    content = {
        key: {kernel: dataclasses.asdict(budget) for kernel, budget in budgets.items()}
        for key, budgets in known.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Replaced as a whole: another process never reads half a file.
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)
