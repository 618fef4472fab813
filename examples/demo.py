"""``python -m examples.demo``: BN against MN on real images, in a few minutes on a CPU.

Trains every norm at every learning rate with every seed, prints the table, saves the plots and
ends with a short benchmark of the layer.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from examples import arguments, report
from examples.activations import record
from examples.data import DataError, ImageData, load
from examples.models import MODELS, build
from examples.norms import Norm
from examples.plots import save_accuracy_curves, save_activations
from examples.training import Recipe, Run, train

_SHOWN_IMAGES = 256
_BENCHMARK_SECONDS = 30


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    torch.backends.cudnn.deterministic = True  # the same seed gives the same curve
    try:
        device = torch.device(args.device)
        arguments.prepare_folder(args.out)
        data = load(args.data, download_to=args.download_to).to(device)
        norms = [_norm(text) for text in dict.fromkeys(args.norm)]
        # One of each before the first step: a bad option must not cost an hour of training.
        for norm in norms:
            _model(args, data, norm, seed=0)
    except (DataError, ValueError, RuntimeError) as error:
        parser.error(str(error))
    recipe = Recipe(args.steps, args.batch_size, args.weight_decay, args.evaluations)
    title = (
        f"{args.model} (width {args.width:g}) on {data.describe()}\n{recipe.steps} steps of "
        f"{recipe.batch_size}, AdamW, weight decay {recipe.weight_decay:g}, "
        f"{_count(args.seeds, 'seed')}, {arguments.device_name(device)}"
    )
    print(title, flush=True)
    runs, models = _train_all(args, norms, recipe, data)
    comparisons = report.compare(runs)
    text = f"\n{title}\n\n{report.table(comparisons)}\n"
    print(text, flush=True)
    saved = _save(args.out, title, text, recipe, runs)
    saved += _plot(args, norms, data, title, comparisons, models)
    for path in saved:
        print(f"saved {path}", flush=True)
    return 0 if args.no_benchmark else _benchmark(device, args.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Train with batch normalization and with mixture normalization, and compare.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, positive = parser.add_argument, arguments.positive
    arguments.add_data(parser, default="mnist")
    add("--model", choices=sorted(MODELS), default="cnn5", help="network")
    add("--width", type=positive(float), default=0.25, help="factor on the channel counts")
    add(
        "--norm",
        nargs="+",
        default=["bn", "mn"],
        help="norms to compare: bn, mn (MN in place of the second BN, K = 3), or mn with options: "
        "mn:layers=2+3,k=5,groups=C/16,estimator=batch; layers=all replaces every BN",
    )
    add(
        "--learning-rates",
        type=positive(float),
        nargs="+",
        default=[0.001, 0.005],
        metavar="LR",
    )
    add("--seeds", type=positive(int), default=3, help="runs per norm and learning rate")
    add("--steps", type=positive(int), default=100, help="training steps per run")
    add("--batch-size", type=positive(int), default=128, help="images per step")
    add("--weight-decay", type=float, default=1e-4, help="AdamW's weight decay")
    add("--evaluations", type=positive(int), default=20, help="test evaluations per run")
    arguments.add_device(parser)
    add("--out", type=Path, default=Path("out/demo"), help="folder of the table and the plots")
    add("--no-benchmark", action="store_true", help="leave out the benchmark at the end")
    return parser


def _norm(text: str) -> Norm:
    norm = Norm.parse(text)
    if norm.kind not in ("bn", "mn"):
        raise ValueError(f"norm {text!r}: the demo compares bn and mn; examples.study has the rest")
    return norm


def _model(args: argparse.Namespace, data: ImageData, norm: Norm, seed: int) -> nn.Module:
    model = build(args.model, data.channels, len(data.classes), norm, args.width, seed)
    return model.to(data.train.images.device)


def _train_all(
    args: argparse.Namespace, norms: list[Norm], recipe: Recipe, data: ImageData
) -> tuple[list[Run], dict[str, nn.Module]]:
    """All runs, and of each norm the network of the first learning rate and seed."""
    plan = [
        (rate, norm, seed)
        for rate in args.learning_rates
        for norm in norms
        for seed in range(args.seeds)
    ]
    runs: list[Run] = []
    models: dict[str, nn.Module] = {}
    # On a terminal a bar; elsewhere only the line that each run prints when it ends.
    with tqdm(total=len(plan) * recipe.steps, unit=" steps", disable=None) as bar:
        for number, (rate, norm, seed) in enumerate(plan, start=1):
            bar.set_description(f"{norm.label}, learning rate {rate:g}, seed {seed}")

            def on_step(accuracy: float) -> None:
                bar.set_postfix_str(f"test accuracy {accuracy:.1f} %", refresh=False)
                bar.update()

            model = _model(args, data, norm, seed)
            run = train(
                model,
                data,
                recipe,
                norm=norm.label,
                learning_rate=rate,
                seed=seed,
                on_step=on_step,
            )
            runs.append(run)
            models.setdefault(norm.label, model)
            bar.write(
                f"run {number:2d}/{len(plan)}  {norm.label}  learning rate {rate:g}  seed {seed}: "
                f"{run.accuracy[-1]:.1f} % in {run.seconds:.1f} s"
            )
            sys.stdout.flush()
    return runs, models


def _save(folder: Path, title: str, text: str, recipe: Recipe, runs: list[Run]) -> list[Path]:
    table, curves = folder / "table.txt", folder / "runs.json"
    table.write_text(text.lstrip(), encoding="utf-8")
    content = {
        "title": title,
        "torch": torch.__version__,
        "recipe": dataclasses.asdict(recipe),
        "runs": [dataclasses.asdict(run) for run in runs],
    }
    curves.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return [table, curves]


def _plot(
    args: argparse.Namespace,
    norms: list[Norm],
    data: ImageData,
    title: str,
    comparisons: list[report.Comparison],
    models: dict[str, nn.Module],
) -> list[Path]:
    curves, activations = args.out / "accuracy.png", args.out / "activations.png"
    save_accuracy_curves(comparisons, title, curves)
    replaced = [p for norm in norms for p in norm.positions(models[norm.label])]
    position = replaced[0] if replaced else 1
    stride = max(1, len(data.test) // _SHOWN_IMAGES)  # the test images may be sorted by class
    images = data.normalize(data.test.images[::stride])
    recordings = {label: record(model, position, images) for label, model in models.items()}
    channel = list(recordings.values())[-1].most_mixed_channel()
    save_activations(
        recordings,
        channel,
        f"Normalization layer {position} of {args.model} after training, on test images: channel "
        f"{channel},\nthe one that the mixture of {list(recordings)[-1]} describes best in "
        "comparison with one Gaussian",
        activations,
    )
    return [curves, activations]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _benchmark(device: torch.device, out: Path) -> int:
    from bench.__main__ import main as bench  # here: its budget starts with the import

    print(
        f"\nThe layer beside batch normalization on {arguments.device_name(device)}:\n", flush=True
    )
    options = {
        "--device": device.type,
        "--cases": "cifar-cnn.*,dcgan64.16x16",
        "--filter": "*train fp32*K=3",
        "--budget": str(_BENCHMARK_SECONDS),
        "--out": str(out / "bench"),
    }
    return bench(["--quick", *itertools.chain(*options.items())])


if __name__ == "__main__":
    sys.exit(main())
