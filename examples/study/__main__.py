"""``python -m examples.study``: a declared grid of trainings; called again, it goes on.

Every training of the study that is not finished is run, or taken up where it stopped; several
processes may share one ``--out`` folder. It ends with tables, plots and all curves as one CSV file;
``--report`` makes these of what is there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from examples import arguments
from examples.data import ImageData, load
from examples.runs import Spec
from examples.study import running
from examples.study.grid import Study
from examples.study.grids import STUDIES
from examples.study.results import collect, save
from examples.training import Evaluation, Run


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    study = STUDIES[args.study]
    if args.list:
        for question in study.questions:
            print(f"{question.name}: {question.text}\n    {'  '.join(study.norms(question))}")
        print(f"{len(study.specs())} trainings of {study.recipe.steps} steps")
        return 0
    if args.out is None or (args.data is None and not args.report):
        parser.error("--data and --out are needed, or --list")
    torch.backends.cudnn.deterministic = True  # the same seed gives the same curve
    stop = arguments.Stop(args.minutes)
    try:
        if not args.report:
            device = torch.device(args.device)
            data = load(args.data, download_to=args.download_to)
            data = data.reduced(study.per_class, study.size, study.test_per_class).to(device)
            arguments.prepare_folder(args.out)
            for spec in study.specs():
                if spec.seed == 0:
                    spec.build(data)  # a bad option must not show after hours
            running.open_study(args.out, study, data, _this_slice(device))
            _work(args.out, study, data, stop)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    try:
        answers = collect(args.out, study)
        for path in save(args.out, study, answers):
            print(f"saved {path}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    left = sum(running.finished(args.out, spec) is None for spec in study.specs())
    if left:
        print(f"{left} of {len(study.specs())} trainings are left: the same command goes on")
    return 130 if stop.interrupted else 0


def _work(folder: Path, study: Study, data: ImageData, stop: arguments.Stop) -> None:
    specs = study.specs()
    done = sum(running.finished(folder, spec) is not None for spec in specs)
    total, steps = len(specs), study.recipe.steps
    with tqdm(initial=done * steps, total=total * steps, unit=" steps", disable=None) as bar:

        def on_step(spec: Spec, latest: Evaluation | None) -> None:
            bar.set_description(f"{spec.norm}, {spec.learning_rate:g}, seed {spec.seed}", False)
            bar.update()

        def on_run(spec: Spec, run: Run) -> None:
            bar.write(
                f"{spec.norm}  learning rate {spec.learning_rate:g}  batch "
                f"{spec.recipe.batch_size}  seed {spec.seed}: {run.accuracy[-1]:.1f} % in "
                f"{run.seconds:.1f} s"
            )
            sys.stdout.flush()

        running.work(folder, study, data, stop=stop, on_step=on_step, on_run=on_run)


def _this_slice(device: torch.device) -> dict[str, str]:
    """What every figure must carry: device, commit, command."""
    return {
        "device": arguments.device_name(device),
        "torch": torch.__version__,
        "commit": _commit(),
        "command": "python -m examples.study " + " ".join(sys.argv[1:]),
    }


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.study",
        description="Run a declared grid of trainings. Called again, it goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("study", choices=sorted(STUDIES), help="which grid, of study/grids.py")
    arguments.add_data(parser, default="")
    parser.set_defaults(data=None)
    arguments.add_device(parser)
    parser.add_argument("--out", type=Path, help="folder of this study and no other")
    parser.add_argument("--minutes", type=arguments.positive(float), help="stop after so many")
    parser.add_argument("--report", action="store_true", help="train nothing: tables and plots")
    parser.add_argument("--list", action="store_true", help="print the questions and the norms")
    return parser


if __name__ == "__main__":
    sys.exit(main())
