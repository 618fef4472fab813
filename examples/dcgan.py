"""``python -m examples.dcgan``: DCGAN with BN or MN in its generator.

Judged by the features of a classifier of this project (``--classifier``, or one that is trained
first, in OUT/classifier): Fréchet distance and WaM to real images, both beside what other real
images score, and how many classes the images show. That Fréchet distance is not FID, whose features
are another network's: ``--fid`` adds FID where torchmetrics finds its weights. Called again, the
command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from examples import arguments, checkpoint, runs
from examples.data import ImageData, load
from examples.features import Features, inception_fid, save_images
from examples.gan import COMPONENTS, GanEvaluation, GanRecipe, GanTraining, Judge, check
from examples.log import write_csv
from examples.training import Recipe

_SHOWN = 100


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    torch.backends.cudnn.deterministic = True  # the same seed gives the same curve
    recipe = GanRecipe(
        args.steps,
        args.batch_size,
        args.learning_rate,
        args.width,
        args.norm,
        args.seed,
        args.evaluations,
        args.samples,
    )
    stop = arguments.Stop(args.minutes)
    try:
        device = torch.device(args.device)
        data = load(args.data, download_to=args.download_to)
        data = data.reduced(args.per_class).to(device)
        check(data, recipe)
        arguments.prepare_folder(args.out)
        classifier = _classifier(args, data, stop)
        if classifier is None:
            print("stopped while training the classifier: the same command goes on")
            return 130 if stop.interrupted else 0
        features = Features(classifier, data)
        judge = Judge(features, data, args.samples)
        training = GanTraining(data, recipe, judge)
        identity = dataclasses.asdict(recipe) | {
            "data": data.describe(),
            "channel_means": data.mean.flatten().tolist(),
            "classifier": features.name,
        }
        if (args.out / runs.CHECKPOINT).exists():
            state = checkpoint.read_matching(args.out / runs.CHECKPOINT, identity)
            training.load_state_dict(state)
        elif (args.out / runs.LOG).exists():
            raise checkpoint.CheckpointError(f"{args.out / runs.LOG}: a log without a checkpoint")
    except (ImportError, ValueError, RuntimeError) as error:
        parser.error(str(error))
    print(f"DCGAN (width {args.width:g}), {args.norm} in the generator, on {data.describe()}")
    print(f"judged by {features.name}, test accuracy {features.accuracy:.1f} %", flush=True)
    with tqdm(initial=training.step, total=args.steps, unit=" steps", disable=None) as bar:
        _advance(args.out, training, identity, stop, bar.update)
    if not training.ended:
        print(f"stopped after step {training.step} of {args.steps}: the same command goes on")
        return 130 if stop.interrupted else 0
    print(_report(args, training, judge, data))
    return 0


def _classifier(args: argparse.Namespace, data: ImageData, stop: arguments.Stop) -> Path | None:
    """The checkpoint given, or of a classifier trained here; None: stopped before its end."""
    if args.classifier is not None:
        given: Path = args.classifier
        return given / runs.CHECKPOINT if given.is_dir() else given
    folder = args.out / "classifier"
    folder.mkdir(exist_ok=True)
    recipe = Recipe(args.classifier_steps, evaluations=4, schedule="cosine", augmentation="crop")
    spec = runs.Spec("cnn5", args.width, "bn", 0.002, 0, recipe)
    training = runs.open_training(folder, spec, data)
    runs.advance(folder, training, spec, data, stop=stop)
    return folder / runs.CHECKPOINT if training.ended else None


def _advance(
    folder: Path,
    training: GanTraining,
    identity: dict[str, object],
    stop: Callable[[], bool],
    on_step: Callable[[], object],
) -> None:
    def save() -> None:
        checkpoint.save(folder / runs.CHECKPOINT, identity, training.state_dict())
        write_csv(folder / runs.LOG, training.evaluations, GanEvaluation)

    while not training.ended and not stop():
        if training.advance() is not None:
            save()
            images = training.sample(_SHOWN)
            save_images(images, folder / f"samples-{training.step:06d}.png")
        on_step()
    save()


def _report(args: argparse.Namespace, training: GanTraining, judge: Judge, data: ImageData) -> str:
    images = training.sample(args.samples)
    last, floor = training.evaluations[-1], judge.floor
    histogram = dict(zip(data.classes, judge.histogram(images), strict=True))
    rows = (
        ("Fréchet distance on the classifier's features", last.frechet, floor["frechet"]),
        (f"WaM, {COMPONENTS} components", last.wam, floor["wam"]),
        (f"effective classes of {judge.classes}", last.classes, floor["classes"]),
    )
    lines = [
        f"{args.samples} generated against {args.samples} real images; in brackets other real ones",
        *(f"{name:46} {value:8.3f}  ({real:.3f})" for name, value, real in rows),
        "classes: " + ", ".join(f"{name} {share:.1%}" for name, share in histogram.items()),
    ]
    content: dict[str, object] = {
        "scores": dataclasses.asdict(last),
        "floor": floor,
        "histogram": histogram,
    }
    if args.fid:
        try:
            content["fid"] = inception_fid(judge.real, images)
            lines.append(f"FID {content['fid']:.2f}")
        except RuntimeError as error:
            lines.append(str(error))
    path = args.out / "scores.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return "\n".join([*lines, f"saved {path}, {args.out / runs.LOG}, samples-*.png"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.dcgan",
        description="Train DCGAN with BN or MN in its generator. Called again, it goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, positive = parser.add_argument, arguments.positive
    arguments.add_data(parser)
    add("--per-class", type=positive(int), help="training images per class; all by default")
    add("--norm", default="bn", help="of the generator, as in examples.train")
    add("--width", type=positive(float), default=1.0, help="factor on the channel counts")
    add("--learning-rate", type=positive(float), default=2e-4, metavar="LR", help="Adam's")
    add("--batch-size", type=positive(int), default=128, help="real images per step")
    add("--steps", type=positive(int), default=20_000, help="of discriminator and generator")
    add("--evaluations", type=positive(int), default=10, help="scores and sample grids")
    add("--samples", type=positive(int), default=5000, help="images behind every score")
    add("--classifier", type=Path, help="folder or checkpoint of examples.train, on the same data")
    add("--classifier-steps", type=positive(int), default=4000, help="where none is given")
    add("--fid", action="store_true", help="also FID by torchmetrics, if its weights can be had")
    add("--seed", type=int, default=0, help="of weights, data order and noise")
    add("--minutes", type=positive(float), help="stop, resumably, after so many")
    arguments.add_device(parser)
    add("--out", type=Path, required=True, help="folder of this training and no other")
    return parser


if __name__ == "__main__":
    sys.exit(main())
