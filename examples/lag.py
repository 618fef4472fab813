"""``python -m examples.lag``: how far running statistics lag behind the weights in training.

At every evaluation the test accuracy is measured three times: with the running statistics; with
statistics of training images at the weights of that step in all normalization layers (``fresh``),
which is what the weights are worth; and with those in all but the layers that a mixture takes
(``own_lag``), whose running statistics stay. ``bn`` is measured in the same layers. Resumes as
``examples.train`` does.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples import arguments, runs
from examples.data import load
from examples.norms import Norm, normalization_layers
from examples.training import Evaluation, Recipe, Training, evaluate
from mixnorm_cuda import MixtureNorm2d, update_statistics

_IMAGES, _BATCH = 2000, 250


@dataclass(frozen=True)
class LagEvaluation(Evaluation):
    """``fresh``, ``own_lag``: percent right with other statistics, see the module."""

    fresh: float
    own_lag: float


class LagTraining(Training):
    evaluation_type: type[Evaluation] = LagEvaluation
    positions: Sequence[int]

    def _measure(self) -> dict[str, float]:
        images, device = self._data.train.images, self._data.train.labels.device
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:_IMAGES]
        batches = [self._data.normalize(images[i.to(device)]) for i in torch.split(chosen, _BATCH)]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            fresh = refreshed(self.model, batches)
        accuracy = {
            "accuracy": evaluate(self.model, self._data),
            "fresh": evaluate(fresh, self._data),
        }
        restore(fresh, self.model, self.positions)
        return accuracy | {"own_lag": evaluate(fresh, self._data)}


def refreshed(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of ``model`` whose BN and MN have the statistics of ``batches``."""
    fresh = copy.deepcopy(model)
    update_statistics(batches, fresh)
    mixtures = [m for m in fresh.modules() if isinstance(m, MixtureNorm2d)]
    states = [copy.deepcopy(m.state_dict()) for m in mixtures]
    # In training mode, so the mixtures' statistics move once more.
    torch.optim.swa_utils.update_bn(batches, fresh)
    for layer, state in zip(mixtures, states, strict=True):
        layer.load_state_dict(state)
    return fresh


def restore(fresh: nn.Module, model: nn.Module, positions: Sequence[int]) -> None:
    """Give the normalizations of ``fresh`` at ``positions`` the statistics of ``model``'s."""
    old, new = normalization_layers(model), normalization_layers(fresh)
    for position in positions:
        new[position - 1].load_state_dict(old[position - 1].state_dict())


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    recipe = Recipe(args.steps, args.batch_size, evaluations=args.evaluations)
    spec = runs.Spec(args.model, args.width, args.norm, args.learning_rate, args.seed, recipe)
    try:
        norm = Norm.parse(args.norm)
        if norm.kind not in ("bn", "mn"):
            raise ValueError(f"--norm {args.norm}: expected bn or mn")
        device = torch.device(args.device)
        data = load(args.data, download_to=args.download_to)
        data = data.reduced(args.per_class, args.size, args.test_per_class).to(device)
        arguments.prepare_folder(args.out)
        training = runs.open_training(args.out, spec, data, LagTraining)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    assert isinstance(training, LagTraining)
    mixture = norm if norm.kind == "mn" else Norm.parse("mn")
    training.positions = mixture.positions(training.model)
    stop = arguments.Stop(args.minutes)
    runs.advance(args.out, training, spec, data, stop=stop)
    for row in training.evaluations:
        assert isinstance(row, LagEvaluation)
        print(
            f"step {row.step}: loss {row.loss:.3f}, test accuracy {row.accuracy:.1f} %; with fresh "
            f"statistics {row.fresh:.1f} %, but for the mixture's layers {row.own_lag:.1f} %"
        )
    if not training.ended:
        print(f"stopped after step {training.step} of {recipe.steps}: the same command goes on")
        return 130 if stop.interrupted else 0
    print(f"saved {args.out / runs.LOG}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.lag",
        description="Measure how far running statistics lag behind the weights in training.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    arguments.add_classifier(
        parser,
        norm="mn",
        norm_help="bn, or mn with options as in examples.train",
        batch_size=128,
        steps=100,
    )
    arguments.add_resumable(parser, evaluations=4)
    return parser


if __name__ == "__main__":
    sys.exit(main())
