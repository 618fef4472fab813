"""Studies: what a grid declares, slices of work, and tables worked out by hand."""

import dataclasses
import json
import multiprocessing
import re

import pytest
import torch

from examples import checkpoint, runs
from examples.models import MODELS
from examples.norms import Norm
from examples.report import Spread, compare
from examples.study import __main__ as command
from examples.study import running
from examples.study.grid import Question, Setting, Study, folder_name
from examples.study.grids import STUDIES
from examples.study.results import collect, markdown, save, table
from examples.training import Recipe, Run

STUDY = Study(
    "small",
    "a study of a second",
    (
        Question("first", "MN?", ("mn",)),
        Question("second", "K?", ("mn", "mn:k=2"), learning_rates=(0.001, 0.01)),
    ),
    Recipe(steps=4, batch_size=16, evaluations=4),
    width=0.0625,
    seeds=2,
)
SLICE = {"device": "cpu", "torch": "2", "commit": "abc", "command": "python -m examples.study"}


def test_a_training_that_two_questions_share_is_run_once():
    specs = STUDY.specs()
    assert len(specs) == len(set(specs)) == 4 + 2 + 6
    assert [(s.norm, s.seed) for s in specs[:4]] == [("bn", 0), ("mn", 0), ("bn", 1), ("mn", 1)]
    assert len({folder_name(spec) for spec in specs}) == len(specs)


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_declared_studies_can_be_built(study):
    """Every norm fits its network at the study's width; weightless, so that it takes no time."""
    for model, norm in dict.fromkeys((spec.model, spec.norm) for spec in study.specs()):
        with torch.device("meta"):
            Norm.parse(norm).apply(MODELS[model](3, 10, study.width))
    assert study.seeds >= 5
    assert study.recipe.evaluations % 4 == 0, "the table's quarters are evaluated"


def _work(folder, data, steps: int = 10**6) -> int:
    """Up to ``steps`` more training steps; how many there were."""
    folder.mkdir(exist_ok=True)
    running.open_study(folder, STUDY, data, SLICE)
    taken = 0

    def on_step(spec, evaluation):
        nonlocal taken
        taken += 1

    running.work(folder, STUDY, data, stop=lambda: taken >= steps, on_step=on_step)
    return taken


def test_slices_end_in_the_same_curves(tmp_path, quadrants):
    total = len(STUDY.specs()) * STUDY.recipe.steps
    assert _work(tmp_path / "whole", quadrants) == total
    counts = []
    while not counts or counts[-1]:
        counts.append(_work(tmp_path / "slices", quadrants, steps=7))
    assert counts[:2] == [7, 7]
    assert sum(counts) == total, "no step is taken twice"
    for spec in STUDY.specs():
        whole, parts = (running.finished(tmp_path / n, spec) for n in ("whole", "slices"))
        assert dataclasses.replace(whole, seconds=0) == dataclasses.replace(parts, seconds=0)
        assert not (tmp_path / "whole" / folder_name(spec) / runs.CHECKPOINT).exists()
    answers = collect(tmp_path / "whole", STUDY)
    assert [(a.question.name, a.setting.learning_rate) for a in answers] == [
        ("first", 0.001),
        ("second", 0.001),
        ("second", 0.01),
    ]
    saved = save(tmp_path / "whole", STUDY, answers)
    assert {path.name for path in saved} == {
        "tables.md",
        "curves.csv",
        "small-first-0.001-16.png",
        "small-second-0.001-16.png",
        "small-second-0.01-16.png",
        "small.png",
    }
    assert all(path.stat().st_size > 500 for path in saved)
    assert len((tmp_path / "whole" / "curves.csv").read_text().splitlines()) == 1 + 12 * 4
    assert "commit abc: `python -m examples.study`" in saved[0].read_text()


def test_only_seeds_that_all_norms_have_enter(tmp_path, quadrants):
    _work(tmp_path, quadrants, steps=13)  # bn and mn of seed 0, bn of seed 1, a step more
    (answer,) = collect(tmp_path, STUDY)  # the second question lacks a norm
    assert [run.seed for c in answer.comparisons for run in c.runs] == [0, 0]
    assert "1 seeds" in markdown(tmp_path, STUDY, [answer])


def test_nothing_yet(tmp_path, quadrants):
    _work(tmp_path, quadrants, steps=4)
    with pytest.raises(ValueError, match="no question has a seed"):
        save(tmp_path, STUDY, collect(tmp_path, STUDY))


def _hold(place, ready, release):
    with running._claimed(place) as ours:
        assert ours
        ready.set()
        release.wait(60)


def test_a_training_in_another_process_is_left_to_it(tmp_path, quadrants):
    first = tmp_path / folder_name(STUDY.specs()[0])
    first.mkdir()
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(first, ready, release))
    other.start()
    try:
        assert ready.wait(60)
        done = _work(tmp_path, quadrants)
    finally:
        release.set()
        other.join()
    assert other.exitcode == 0
    assert done == (len(STUDY.specs()) - 1) * STUDY.recipe.steps
    assert running.finished(tmp_path, STUDY.specs()[0]) is None
    assert _work(tmp_path, quadrants) == STUDY.recipe.steps


def test_folder_of_another_study(tmp_path, quadrants):
    running.open_study(tmp_path, STUDY, quadrants, SLICE)
    before = (tmp_path / "study.json").read_bytes()
    other = dataclasses.replace(STUDY, name="other")
    with pytest.raises(checkpoint.CheckpointError, match=r"study 'small' \(asked for: 'other'\)"):
        running.open_study(tmp_path, other, quadrants, SLICE)
    with pytest.raises(checkpoint.CheckpointError, match="data 'quadrants: 128 training"):
        running.open_study(tmp_path, STUDY, quadrants.reduced(per_class=8), SLICE)
    assert (tmp_path / "study.json").read_bytes() == before
    running.open_study(tmp_path, STUDY, quadrants, SLICE | {"commit": "def"})
    assert [s["commit"] for s in running.slices(tmp_path)] == ["abc", "def"]
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        running.open_study(tmp_path, STUDY, quadrants, SLICE)


def test_interval():
    """Of 1, 2, 6: mean 3, standard deviation √7, t = 4.303 at two degrees of freedom."""
    spread = Spread.of([1.0, 2.0, 6.0])
    assert spread.half_interval() == pytest.approx(4.303 * (7 / 3) ** 0.5)
    assert spread.interval_text() == "3.0 ± 6.6"
    assert Spread.of([2.0]).interval_text() == "2.0"
    many = Spread.of([0.0, 1.0] * 50)
    assert many.half_interval() == pytest.approx(1.96 * many.std / 10)


def test_table():
    def run(norm, seed, *accuracy):
        return Run(norm, 0.001, seed, (25, 50, 75, 100), accuracy, 1.0)

    bn = [run("bn", 0, 10, 20, 30, 40), run("bn", 1, 20, 30, 40, 50)]
    mn = [run("mn", 0, 10, 20, 42, 41), run("mn", 1, 20, 30, 40, 49)]
    header, _, first, second = table(compare([*bn, *mn]))
    assert header.split("|")[1:-1] == [
        f" {name} "
        for name in (
            "norm", "25 %", "50 %", "75 %", "100 %", "best", "curve − bn's", "final − bn's",
            "steps to bn's best",
        )
    ]  # fmt: skip
    # Two values ±5 about the mean: 12.706 · √50 / √2 = 63.5.
    assert first == (
        "| `bn` | 15.0 ± 63.5 | 25.0 ± 63.5 | 35.0 ± 63.5 | 45.0 ± 63.5 | 45.0 ± 63.5 |  |  "
        "| 100 ± 0 (2/2) |"
    )
    # The curves' means differ by 3.25 and -0.25, the ends by +1 and -1.
    assert re.search(r"\| \+1\.5 ± 22\.2 \| \+0\.0 ± 12\.7 \| 75 \(1/2\) \|$", second)


@pytest.fixture
def small(monkeypatch, quadrants):
    monkeypatch.setattr(command, "STUDIES", {"small": STUDY})
    monkeypatch.setattr(command, "load", lambda data, download_to: quadrants)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)


def test_command(small, tmp_path, capsys):
    options = ["small", "--data", "x", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert command.main(options) == 0
    printed = capsys.readouterr().out
    assert printed.count(" % in ") == 12
    assert "tables.md" in printed
    assert command.main([*options, "--report"]) == 0
    (entry,) = json.loads((tmp_path / "out" / "study.json").read_text())["slices"]
    assert entry["torch"] == torch.__version__
    assert set(entry) == {"device", "torch", "commit", "command"}


def test_command_lists(small, capsys):
    assert command.main(["small", "--list"]) == 0
    assert "12 trainings of 4 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("small",), "--data and --out are needed"),
        (("none",), "none"),
        (("small", "--report", "--out", "/nowhere"), "no question has a seed"),
        (("small", "--data", "x", "--out", "x", "--device", "nonsense"), "nonsense"),
    ],
)
def test_bad_options(small, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        command.main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_setting_reads_as_a_sentence():
    assert str(Setting("cnn5", "sgd", 0.05, 16)) == "cnn5, sgd, learning rate 0.05, batch 16"
