"""``python -m examples.train``: one training, which the same command, given again, goes on with.

Its folder (``--out``) holds log.csv, TensorBoard's files where tensorboard is installed, and
checkpoint.pt, which is written at every evaluation and when the training is stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from tqdm import tqdm

from examples import arguments, runs
from examples.batches import AUGMENTATIONS
from examples.data import load
from examples.norms import Norm
from examples.training import OPTIMIZERS, SCHEDULES, Evaluation, Recipe


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    torch.backends.cudnn.deterministic = True  # the same seed gives the same curve
    recipe = Recipe(
        args.steps,
        args.batch_size,
        args.weight_decay,
        args.evaluations,
        args.optimizer,
        args.schedule,
        args.augmentation,
    )
    spec = runs.Spec(args.model, args.width, args.norm, args.learning_rate, args.seed, recipe)
    try:
        if Norm.parse(spec.norm).kind == "domain":
            raise ValueError(f"--norm {spec.norm}: these images come from one domain")
        device = torch.device(args.device)
        data = load(args.data, download_to=args.download_to)
        data = data.reduced(args.per_class, args.size, args.test_per_class).to(device)
        arguments.prepare_folder(args.out)
        training = runs.open_training(args.out, spec, data)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    print(f"{spec.model} (width {spec.width:g}), {spec.norm}, on {data.describe()}")
    if training.step:
        print(f"going on after step {training.step} of {recipe.steps}", flush=True)
    stop = arguments.Stop(args.minutes)
    with tqdm(initial=training.step, total=recipe.steps, unit=" steps", disable=None) as bar:

        def on_step(latest: Evaluation | None) -> None:
            if latest is not None:
                bar.set_postfix_str(f"test accuracy {latest.accuracy:.1f} %", refresh=False)
            bar.update()

        runs.advance(args.out, training, spec, data, stop=stop, on_step=on_step, tensorboard=True)
    if not training.ended:
        print(f"stopped after step {training.step} of {recipe.steps}: the same command goes on")
        return 130 if stop.interrupted else 0
    last = training.evaluations[-1]
    best = max(training.evaluations, key=lambda evaluation: evaluation.accuracy)
    print(
        f"test accuracy {last.accuracy:.2f} % after {last.step} steps and {last.seconds:.1f} s on "
        f"{arguments.device_name(device)}; best {best.accuracy:.2f} % after {best.step}\n"
        f"saved {args.out / runs.CHECKPOINT}, {args.out / runs.LOG}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.train",
        description="Train one network. Called again, it goes on where it was stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    arguments.add_classifier(
        parser,
        norm="bn",
        norm_help="bn; mn (MN in place of some BN); gn (GroupNorm everywhere); mode (Mode "
        "Normalization). With options: mn:layers=2+3,k=5,groups=C/16,estimator=batch; layers are "
        "positions, names such as blocks.8.* or all",
        batch_size=256,
        steps=8000,
    )
    add = parser.add_argument
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="sgd: with Nesterov momentum 0.9")
    add("--schedule", choices=SCHEDULES, default="constant", help="of the learning rate")
    add("--weight-decay", type=float, default=1e-4, help="of either optimizer")
    add("--augmentation", choices=AUGMENTATIONS, default="crop-flip", help="of training images")
    arguments.add_resumable(parser, evaluations=40)
    return parser


if __name__ == "__main__":
    sys.exit(main())
