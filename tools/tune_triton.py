"""Measures on this GPU what `config.BUDGETS` assumes, and writes it as JSON.

First the moments with `tl.dot` and with multiply-adds, then the operators of representative layers
under other budgets, one number at a time, until the seconds are up.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mixnorm_cuda.kernels.triton import autotune, config, ops
from mixnorm_cuda.types import Mixture

PRODUCTS = tuple(
    ((64, channels, 28, 28), components, dtype)
    for dtype in ("float32", "bfloat16")
    for channels in (32, 64)
    for components in (3, 5, 8, 16)
)
LAYERS = tuple(
    ((64, channels, size, size), 3, dtype)
    for channels, size in ((64, 56), (256, 28), (2048, 7))
    for dtype in ("float32", "bfloat16")
)
OPTIONS: dict[str, Any] = {"eps": 1e-5, "mixing_scale": True}


def layer(
    shape: tuple[int, ...], components: int, dtype: str, device: str
) -> tuple[torch.Tensor, Mixture]:
    """Random data, and a mixture whose components share it."""
    channels = shape[1]
    mean = torch.randn(components, channels) / channels**0.5
    mixture = Mixture(torch.full((1, components), 1 / components), mean, torch.ones_like(mean))
    x = torch.randn(shape, device=device).to(getattr(torch, dtype))
    return x, Mixture(*(t.to(device) for t in mixture))


def products(shape: tuple[int, ...], components: int, dtype: str, device: str) -> dict[str, Any]:
    """Milliseconds of the moments with either kind of product."""
    x, mixture = layer(shape, components, dtype, device)
    found: dict[str, Any] = {
        "dtype": dtype, "channels": shape[1], "num_components": components
    }  # fmt: skip
    for how, fewest in (("multiply-adds", 0), ("tl.dot", 1)):
        budget = dataclasses.replace(config.BUDGETS["moments"], dot_components=fewest)
        with config.using({"moments": budget}):
            found[how] = autotune.milliseconds(lambda: ops.moments(x, mixture, eps=1e-5))
    return found


def operators(x: torch.Tensor, mixture: Mixture) -> Iterator[tuple[str, Callable[[], object]]]:
    """The calls of a training step and of eval."""

    def forward() -> Any:
        return ops.forward(x, mixture, None, None, em_iters=0, **OPTIONS)

    out = forward()
    yield "forward", forward
    yield "backward", lambda: ops.backward(
        x, x, out.responsibilities, out.moments, out.mixture, None, None,
        responsibility_grad=True, mixture_grad=False, **OPTIONS,
    )  # fmt: skip
    yield "evaluate", lambda: ops.evaluate(x, mixture, None, None, **OPTIONS)


def tuned(shape: tuple[int, ...], components: int, dtype: str, device: str) -> Iterator[Any]:
    """Of each operator its time under the table, the fastest found, and what that changes."""
    x, mixture = layer(shape, components, dtype, device)
    for name, call in operators(x, mixture):
        before = autotune.milliseconds(call)
        budgets = autotune.tune(name, call)
        with config.using(budgets):
            after = autotune.milliseconds(call)
        changed = {
            f"{kernel}.{number}": value
            for kernel, budget in budgets.items()
            for number, value in dataclasses.asdict(budget).items()
            if value != getattr(config.BUDGETS[kernel], number)
        }
        yield {
            "shape": shape, "num_components": components, "dtype": dtype, "operator": name,
            "table_ms": before, "fastest_ms": after, "changed": changed,
        }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--seconds", type=float, default=80.0, help="start nothing after these")
    parser.add_argument("--device", default="cuda")
    a = parser.parse_args(arguments)
    end: float = time.monotonic() + a.seconds
    device = torch.cuda.get_device_name() if a.device == "cuda" else a.device
    content: dict[str, Any] = {"device": device, "products": [], "tuned": []}
    a.out.parent.mkdir(parents=True, exist_ok=True)

    def keep(part: str, row: dict[str, Any]) -> bool:
        """Write what there is, so that a run that is cut leaves it; False when time is up."""
        print(row, flush=True)
        content[part].append(row)
        a.out.write_text(json.dumps(content, indent=1) + "\n")
        return time.monotonic() < end

    more = all(keep("products", products(*sizes, a.device)) for sizes in PRODUCTS)
    if more:
        all(keep("tuned", row) for sizes in LAYERS for row in tuned(*sizes, a.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
