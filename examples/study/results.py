"""From finished trainings to answers: comparisons beside BN, with 95 % intervals over seeds."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from examples.report import QUARTERS, Comparison, Spread, accuracy_at, compare
from examples.study import running
from examples.study.grid import Question, Setting, Study
from examples.study.plots import save_answer, save_overview
from examples.training import Run


@dataclass(frozen=True)
class Answer:
    """A question's comparisons in one setting, from the seeds that all its norms have."""

    question: Question
    setting: Setting
    comparisons: list[Comparison]


def collect(folder: Path, study: Study) -> list[Answer]:
    """What the finished trainings in ``folder`` say; a question without some norm is left out."""
    answers = []
    for question in study.questions:
        for setting in study.settings(question):
            found: dict[str, dict[int, Run]] = {}
            for norm in study.norms(question):
                for seed in range(study.seeds):
                    run = running.finished(folder, study.spec(setting, norm, seed))
                    if run is not None:
                        found.setdefault(norm, {})[seed] = run
            if len(found) < len(study.norms(question)):
                continue
            seeds = set.intersection(*(set(by_seed) for by_seed in found.values()))
            shared = [found[norm][seed] for norm in found for seed in sorted(seeds)]
            if shared:
                answers.append(Answer(question, setting, compare(shared)))
    return answers


def save(folder: Path, study: Study, answers: list[Answer]) -> list[Path]:
    """The tables as Markdown, every curve as CSV, and the plots.

    Raises:
        ValueError: there is nothing to save.
    """
    if not answers:
        raise ValueError(f"{folder}: no question has a seed that all its norms have finished")
    tables, curves = folder / "tables.md", folder / "curves.csv"
    tables.write_text(markdown(folder, study, answers), encoding="utf-8")
    _write_curves(curves, answers)
    saved = [tables, curves]
    for answer in answers:
        rate, size = answer.setting.learning_rate, answer.setting.batch_size
        saved.append(folder / f"{study.name}-{answer.question.name}-{rate:g}-{size}.png")
        title = f"{answer.question.text}  ({answer.setting})\n{study.text}"
        save_answer(answer.comparisons, title, saved[-1])
    saved.append(folder / f"{study.name}.png")
    blocks = [(f"{a.question.name} ({a.setting.learning_rate:g}, {a.setting.batch_size})",
               a.comparisons) for a in answers]  # fmt: skip
    save_overview(blocks, study.text, saved[-1])
    return saved


def markdown(folder: Path, study: Study, answers: list[Answer]) -> str:
    lines = [f"{study.text}; {study.recipe.steps} steps.", ""]
    for slice_ in running.slices(folder):
        lines.append(
            f"- {slice_['device']}, PyTorch {slice_['torch']}, commit {slice_['commit']}: "
            f"`{slice_['command']}`"
        )
    for answer in answers:
        seeds = len(answer.comparisons[0].runs)
        lines += ["", f"**{answer.question.text}** {answer.setting}, {seeds} seeds.", ""]
        lines += table(answer.comparisons)
    return "\n".join([*lines, ""])


def table(comparisons: list[Comparison]) -> list[str]:
    """Mean ± half the 95 % interval over the seeds; differences are paired by seed."""
    baseline = comparisons[0].baseline
    header = ["norm", *(f"{100 * quarter:.0f} %" for quarter in QUARTERS), "best"]
    header += [f"curve − {baseline}'s", f"final − {baseline}'s", f"steps to {baseline}'s best"]
    rows = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for comparison in comparisons:
        spreads = [
            Spread.of([accuracy_at(run, quarter) for run in comparison.runs])
            for quarter in QUARTERS
        ]
        spreads.append(Spread.of([max(run.accuracy) for run in comparison.runs]))
        cells = [f"`{comparison.norm}`", *(spread.interval_text() for spread in spreads)]
        own = comparison.norm == baseline
        for gain in (comparison.curve_gain(), comparison.final_gain()):
            cells.append("" if own else gain.interval_text(sign="+"))
        cells.append(_steps(comparison))
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _steps(comparison: Comparison) -> str:
    reached, seeds = comparison.reached, len(comparison.runs)
    if not reached:
        return f"not reached (0/{seeds})"
    return f"{Spread.of(reached).interval_text(digits=0)} ({len(reached)}/{seeds})"


def _write_curves(path: Path, answers: list[Answer]) -> None:
    header = [
        "model",
        "optimizer",
        "learning_rate",
        "batch_size",
        "norm",
        "seed",
        "step",
        "accuracy",
    ]
    rows: dict[tuple[object, ...], str] = {}  # questions share trainings: each once
    for answer in answers:
        s = answer.setting
        for comparison in answer.comparisons:
            for run in comparison.runs:
                key = (s.model, s.optimizer, s.learning_rate, s.batch_size, run.norm, run.seed)
                for step, accuracy in zip(run.steps, run.accuracy, strict=True):
                    row = (*key, step)
                    rows[row] = f"{accuracy:.2f}"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows((*key, accuracy) for key, accuracy in rows.items())
