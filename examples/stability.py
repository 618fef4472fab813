"""``python -m examples.stability``: a mixture layer's statistics while a training starts.

Every few steps, of the first mixture layer: the mixing weights (in ascending order), the standard
deviation of its input, and the norm of the loss's gradient there. Written as CSV.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from examples import arguments
from examples.data import load
from examples.models import build
from examples.norms import Norm
from examples.training import Recipe, Training
from mixnorm_cuda import MixtureNorm2d


class Probe:
    """What passes through ``layer`` in training."""

    def __init__(self, layer: MixtureNorm2d) -> None:
        self._layer = layer
        self._input_std = self._gradient = 0.0
        layer.register_forward_hook(self._forward)

    def read(self) -> dict[str, float]:
        weights = self._layer.running_weight
        assert weights is not None
        least = weights.sort(dim=1).values.mean(dim=0).tolist()
        named = {f"weight_{k}": weight for k, weight in enumerate(least, start=1)}
        return {"input_std": self._input_std, "gradient": self._gradient, **named}

    def _forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if layer.training:
            self._input_std = inputs[0].detach().std().item()
            inputs[0].register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, gradient: Tensor) -> None:
        self._gradient = gradient.norm().item()


class _Watched(Training):
    loss = 0.0

    def _loss_of(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = super()._loss_of(images, labels)
        self.loss = float(loss.detach())
        return loss


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        device = torch.device(args.device)
        data = load(args.data, download_to=args.download_to)
        data = data.reduced(args.per_class, args.size, args.test_per_class).to(device)
        norm = Norm.parse(args.norm)
        model = build(args.model, data.channels, len(data.classes), norm, args.width, args.seed)
        layers = [m for m in model.modules() if isinstance(m, MixtureNorm2d)]
        if not layers or layers[0].running_weight is None:
            raise ValueError(f"--norm {args.norm}: expected a mixture with running statistics")
        arguments.prepare_folder(args.out.parent)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    recipe = Recipe(args.steps, args.batch_size, evaluations=1)
    training = _Watched(model.to(device), data, recipe, args.learning_rate, args.seed)
    probe = Probe(layers[0])
    rows = []
    while not training.ended:
        training.advance()
        if training.step % args.every == 0:
            rows.append({"step": training.step, "loss": training.loss, **probe.read()})
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["step"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.4g}" for name, value in row.items()} for row in rows)
    print(f"saved {args.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.stability",
        description="Follow a mixture layer's statistics while a training starts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    arguments.add_classifier(
        parser, norm="mn", norm_help="as in examples.train", batch_size=128, steps=400
    )
    add = parser.add_argument
    add("--every", type=arguments.positive(int), default=10, help="steps between rows")
    add("--out", type=Path, required=True, help="CSV file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
