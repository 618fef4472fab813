"""Trainings that stop and go on, their checkpoints and logs, and the command line."""

import dataclasses
import sys
import types

import pytest
import torch

from examples import checkpoint, log, runs, train
from examples.adversarial import AdversarialRecipe, AdversarialTraining
from examples.batches import Augmentation, Batches
from examples.training import Evaluation, Recipe, Training

RECIPE = Recipe(steps=12, batch_size=32, evaluations=3, augmentation="crop", schedule="cosine")


def _spec(norm: str = "mn", **changes) -> runs.Spec:
    return dataclasses.replace(runs.Spec("cnn5", 0.0625, norm, 0.005, 0, RECIPE), **changes)


def _train(folder, spec, data, kind=Training, steps: int | None = None) -> Training:
    """To the end, or ``steps`` further."""
    folder.mkdir(exist_ok=True)
    training = runs.open_training(folder, spec, data, kind)
    last = training.step + (steps or 10**6)
    runs.advance(folder, training, spec, data, stop=lambda: training.step >= last)
    return training


def _same(first: Training, second: Training) -> None:
    for a, b in zip(first.evaluations, second.evaluations, strict=True):
        assert dataclasses.replace(a, seconds=0) == dataclasses.replace(b, seconds=0)
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


AS_BN = "mn:component_affine=True,affine_init=batchnorm"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("norm", ["bn", "mn", "mn:estimator=batch", AS_BN, "gn", "mode"])
def test_resumed_is_uninterrupted(tmp_path, quadrants, norm, optimizer):
    """To the last bit, though stopped four times, with other draws from torch in between."""
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    spec = _spec(norm, recipe=recipe)
    whole = _train(tmp_path / "whole", spec, quadrants)
    assert whole.ended
    for steps in (1, 2, 2, 4, None):  # after the first step, mid-epoch, at an evaluation
        torch.rand(7)
        parts = _train(tmp_path / "parts", spec, quadrants, steps=steps)
        assert parts.ended == (steps is None)
    _same(whole, parts)
    rows = log.read_csv(tmp_path / "parts" / runs.LOG)
    assert rows == parts.evaluations
    assert [row.step for row in rows] == [4, 8, 12]
    assert whole.evaluations[-1].loss < whole.evaluations[0].loss


def test_a_killed_training_goes_on_from_its_last_evaluation(tmp_path, quadrants, monkeypatch):
    whole = _train(tmp_path / "whole", _spec(), quadrants)
    monkeypatch.setattr(Training, "advance", _fails_after(10, Training.advance))
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", _spec(), quadrants)
    monkeypatch.undo()
    left = runs.open_training(tmp_path / "parts", _spec(), quadrants)
    assert left.step == 8
    _same(whole, _train(tmp_path / "parts", _spec(), quadrants))


def _fails_after(steps, advance):
    def stopped(training):
        if training.step >= steps:
            raise KeyboardInterrupt
        return advance(training)

    return stopped


@pytest.mark.parametrize("norm", ["bn", "mn", "domain:layers=all"])
def test_adversarial_training_resumes(tmp_path, quadrants, norm):
    recipe = AdversarialRecipe(
        steps=4, batch_size=16, evaluations=2, radius=20.0, attack_steps=2, test_attack_steps=2
    )
    spec = _spec(norm, recipe=recipe)
    whole = _train(tmp_path / "whole", spec, quadrants, AdversarialTraining)
    for steps in (1, 2, None):
        parts = _train(tmp_path / "parts", spec, quadrants, AdversarialTraining, steps)
    _same(whole, parts)
    last = whole.evaluations[-1]
    assert 0 <= last.robust <= 100
    assert norm.startswith("domain") or last.blind == last.robust


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"norm": "bn"}, "norm 'mn' (asked for: 'bn')"),
        ({"seed": 1}, "seed 0 (asked for: 1)"),
        ({"width": 0.125}, "width 0.0625 (asked for: 0.125)"),
        ({"recipe": dataclasses.replace(RECIPE, steps=13)}, "steps 12 (asked for: 13)"),
        ({"recipe": dataclasses.replace(RECIPE, optimizer="sgd")}, "optimizer 'adamw'"),
    ],
)
def test_checkpoint_of_another_training(tmp_path, quadrants, changes, named):
    folder = tmp_path / "run"
    _train(folder, _spec(), quadrants, steps=5)
    before = _contents(folder)
    with pytest.raises(checkpoint.CheckpointError) as caught:
        runs.open_training(folder, _spec(**changes), quadrants)
    assert named in str(caught.value)
    assert str(folder / runs.CHECKPOINT) in str(caught.value)
    assert _contents(folder) == before


def test_checkpoint_on_other_images(tmp_path, quadrants):
    _train(tmp_path / "run", _spec(), quadrants, steps=5)
    brighter = dataclasses.replace(quadrants, mean=quadrants.mean + 1)
    with pytest.raises(checkpoint.CheckpointError, match="channel_means"):
        runs.open_training(tmp_path / "run", _spec(), brighter)
    with pytest.raises(checkpoint.CheckpointError, match="data 'quadrants: 128 training"):
        runs.open_training(tmp_path / "run", _spec(), quadrants.reduced(per_class=8))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_damaged_checkpoint(tmp_path, quadrants, content):
    folder = tmp_path / "run"
    _train(folder, _spec(), quadrants, steps=5)
    whole = (folder / runs.CHECKPOINT).read_bytes()
    content = whole[: len(whole) // 2] if content is None else content
    (folder / runs.CHECKPOINT).write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="damaged, or not a checkpoint"):
        runs.open_training(folder, _spec(), quadrants)
    assert (folder / runs.CHECKPOINT).read_bytes() == content


def test_something_else_saved_by_torch(tmp_path, quadrants):
    torch.save({"weights": torch.ones(3)}, tmp_path / runs.CHECKPOINT)
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint of format"):
        runs.open_training(tmp_path, _spec(), quadrants)


def test_log_without_a_checkpoint_is_not_overwritten(tmp_path, quadrants):
    (tmp_path / runs.LOG).write_text("precious")
    with pytest.raises(checkpoint.CheckpointError, match="a log without its"):
        runs.open_training(tmp_path, _spec(), quadrants)
    assert (tmp_path / runs.LOG).read_text() == "precious"


def _contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_augmentation_moves_whole_images():
    """Every image is a shifted, perhaps mirrored copy of itself behind a border of zeros."""
    images = torch.randint(1, 255, (64, 3, 9, 9), dtype=torch.uint8)
    moved = Augmentation("crop-flip", seed=1)(images)
    padded = torch.nn.functional.pad(images, (4,) * 4)
    seen = set()
    for image, wide in zip(moved, padded, strict=True):
        places = [
            (row, column, flip)
            for row in range(9)
            for column in range(9)
            for flip in (False, True)
            if torch.equal(
                image.flip(2) if flip else image, wide[:, row : row + 9, column : column + 9]
            )
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 40, "draws differ between images"
    assert {flip for *_, flip in seen} == {False, True}


def test_augmentation_repeats_and_does_not_touch_torchs_generator():
    images = torch.randint(0, 255, (8, 1, 6, 6), dtype=torch.uint8)
    before = torch.get_rng_state()
    first, again = Augmentation("crop", 3), Augmentation("crop", 3)
    assert torch.equal(first(images), again(images))
    assert not torch.equal(first(images), Augmentation("crop", 3)(images))
    assert torch.equal(torch.get_rng_state(), before)
    assert Augmentation("none", 3)(images) is images


def test_batches_go_on_where_they_were():
    batches = Batches(20, 6, seed=2)
    for _ in range(4):
        next(batches)
    state = batches.state_dict()
    rest = [next(batches) for _ in range(5)]
    other = Batches(20, 6, seed=9)
    other.load_state_dict(state)
    assert all(torch.equal(next(other), batch) for batch in rest)


def test_cosine_schedule_ends_near_zero(tmp_path, quadrants):
    training = _train(tmp_path / "run", _spec("bn"), quadrants)
    rates = [evaluation.learning_rate for evaluation in training.evaluations]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * 0.005


def test_csv_round_trip(tmp_path):
    rows = [Evaluation(3, 1.5, 0.001, 2.25, 50.0), Evaluation(6, 0.1, 1e-4, 4.5, 66.66666666666667)]
    log.write_csv(tmp_path / "log.csv", rows)
    assert log.read_csv(tmp_path / "log.csv") == rows
    assert (tmp_path / "log.csv").read_text().startswith("step,loss,learning_rate,seconds,accuracy")


def test_tensorboard_where_there_is_one(tmp_path, quadrants, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    spec = _spec("bn")
    training = runs.open_training(tmp_path, spec, quadrants)
    runs.advance(tmp_path, training, spec, quadrants, tensorboard=True)
    assert written[0] == (str(tmp_path), 1)
    assert ("accuracy", training.evaluations[0].accuracy, 4) in written
    assert written[-1] == "closed"


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    board = log.TensorBoard(tmp_path, 0)
    board.write(Evaluation(1, 1.0, 1.0, 1.0, 1.0))
    board.close()


@pytest.fixture
def command(monkeypatch, quadrants, tmp_path):
    """examples.train on the quadrants, for 6 steps."""
    monkeypatch.setattr(train, "load", lambda data, download_to: quadrants)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    options = ["--data", "quadrants", "--device", "cpu", "--width", "0.0625", "--batch-size", "16"]
    options += ["--steps", "6", "--evaluations", "2", "--out", str(tmp_path / "out")]
    return lambda *more: train.main([*options, *more])


def test_command(command, tmp_path, capsys):
    assert command("--norm", "mn:k=2") == 0
    printed = capsys.readouterr().out
    assert "mn:k=2, on quadrants: 128 training" in printed
    assert "after 6 steps" in printed
    assert len(log.read_csv(tmp_path / "out" / runs.LOG)) == 2
    assert command("--norm", "mn:k=2") == 0, "an ended training is only reported"
    assert "going on after step 6 of 6" in capsys.readouterr().out


def test_command_in_slices(command, capsys):
    assert command("--minutes", "1e-9") == 0
    assert "stopped after step 0 of 6: the same command goes on" in capsys.readouterr().out
    assert command() == 0
    assert "after 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--norm", "mn:layers=7"), "no normalization layer 7"),
        (("--norm", "domain"), "come from one domain"),
        (("--norm", "mn:k=0"), "num_components"),
        (("--learning-rate", "0"), "--learning-rate"),
        (("--device", "nonsense"), "nonsense"),
        (("--per-class", "99"), "per_class=99: expected 1 to 32"),
        (("--size", "3"), "size=3: expected a divisor of 8×8"),
    ],
)
def test_bad_option_writes_nothing(command, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        command(*options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    out = tmp_path / "out"
    assert not out.exists() or not list(out.iterdir())


def test_another_configuration_in_the_same_folder(command, capsys):
    assert command() == 0
    with pytest.raises(SystemExit):
        command("--seed", "1")
    assert "seed 0 (asked for: 1)" in capsys.readouterr().err


def test_missing_data_makes_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit):
        train.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
