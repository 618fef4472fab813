"""The table's arithmetic on curves worked out by hand, and the plots."""

import math
import re

import pytest
import torch
from torch import nn

from examples import demo
from examples.activations import record
from examples.models import build
from examples.norms import Norm, normalization_layers
from examples.plots import save_accuracy_curves, save_activations
from examples.report import Spread, accuracy_at, compare, definition, steps_to, table
from examples.training import Run
from mixnorm_cuda.introspection import Activations

STEPS = (25, 50, 75, 100)


def _run(norm: str, seed: int, *accuracy: float, rate: float = 0.001) -> Run:
    return Run(norm, rate, seed, STEPS, accuracy, seconds=1.0 + seed)


BN = [_run("bn", 0, 50, 90, 80, 85), _run("bn", 1, 40, 60, 70, 80)]
MN = [_run("mn", 0, 90, 70, 95, 95), _run("mn", 1, 40, 79, 80, 60)]
NEVER = [_run("mn", 0, 10, 20, 30, 40), _run("mn", 1, 10, 20, 30, 40)]


def test_spread():
    assert Spread.of([1.0, 2.0, 6.0]) == Spread(3.0, math.sqrt(7.0), 3)
    assert Spread.of([1.0, 2.0, 6.0]).text() == "3.0 ± 2.6"
    assert Spread.of([2.0]).text(sign="+") == "+2.0"
    assert Spread.of([]).text() == "–"


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.25, 50), (0.26, 90), (0.5, 90), (0.75, 80), (1.0, 85)]
)
def test_accuracy_at(fraction, expected):
    assert accuracy_at(BN[0], fraction) == expected


@pytest.mark.parametrize(("accuracy", "expected"), [(50, 25), (51, 50), (90, 50), (91, None)])
def test_steps_to(accuracy, expected):
    assert steps_to(BN[0], accuracy) == expected


def test_comparison_is_paired_by_seed():
    bn, mn = compare([*BN, *MN[::-1]])
    assert bn.steps_to_best == (50, 100)
    assert mn.steps_to_best == (25, 75)
    assert mn.saved().mean == pytest.approx((50.0 + 25.0) / 2)
    assert mn.final_gain().mean == pytest.approx((10.0 - 20.0) / 2)
    assert mn.verdict() == (
        "mn at learning rate 0.001: bn's best reached in 38 ± 18 % fewer steps; "
        "final accuracy -5.0 ± 21.2 points."
    )


def test_a_slower_norm_is_called_slower():
    _, slower = compare([_run("bn", 0, 90, 80, 80, 80), _run("mn", 0, 80, 90, 90, 90)])
    assert slower.saved().mean == pytest.approx(-100.0)
    assert "100 % more steps" in slower.verdict()


def test_best_not_reached():
    _, never = compare([*BN, *NEVER])
    assert never.steps_text() == "not reached (0/2)"
    assert "bn's best reached by no seed" in never.verdict()
    _, once = compare([*BN, MN[0], NEVER[1]])
    assert once.steps_to_best == (25, None)
    assert once.steps_text() == "25 (1/2)"
    assert "not reached by 1 of 2 seeds (where reached: 50 % fewer steps)" in once.verdict()


def test_each_learning_rate_has_its_own_baseline():
    other = [_run("bn", 0, 10, 10, 10, 20, rate=0.005), _run("mn", 0, 20, 0, 0, 0, rate=0.005)]
    comparisons = compare([BN[0], MN[0], *other])
    assert [c.steps_to_best for c in comparisons] == [(50,), (25,), (100,), (25,)]


def test_without_bn_the_first_norm_is_the_baseline():
    runs = [_run("mn", 0, 1, 2, 3, 4), _run("mn:k=5", 0, 4, 4, 4, 4)]
    comparisons = compare(runs)
    assert {c.baseline for c in comparisons} == {"mn"}
    assert comparisons[1].steps_to_best == (25,)
    assert "steps to mn's best" in table(comparisons)


def test_missing_seed_is_refused():
    with pytest.raises(ValueError, match=r"mn at learning rate 0.001 have seeds \[0\]; bn has"):
        compare([*BN, MN[0]])


def test_table():
    lines = table(compare([*BN, *MN])).splitlines()
    bn, mn = lines[2:4]
    assert bn.split("  ")[0] == "0.001"
    for cell in ("45.0 ± 7.1", "75.0 ± 21.2", "75.0 ± 7.1", "82.5 ± 3.5", "85.0 ± 7.1"):
        assert cell in bn
    assert "75 ± 35 (2/2)" in bn
    assert "50 ± 35 (2/2)" in mn
    assert definition("bn").splitlines()[0] in lines
    assert lines[-1].startswith("mn at learning rate 0.001")


def _is_png(path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.mark.parametrize("runs", [[*BN, *MN], [BN[0], MN[0]], [_run("bn", 0, 9, 99, 100, 100)]])
def test_accuracy_plot(tmp_path, runs):
    save_accuracy_curves(compare(runs), "title", tmp_path / "accuracy.png")
    assert _is_png(tmp_path / "accuracy.png")


@pytest.fixture
def recordings(quadrants):
    images = quadrants.normalize(quadrants.train.images)
    found = {}
    for text in ("bn", "mn:groups=2"):
        torch.manual_seed(0)
        model = build("cnn5", 1, 4, Norm.parse(text), 0.125, seed=0)
        for parameter in normalization_layers(model)[1].parameters():
            nn.init.uniform_(parameter, 0.5, 2.0)
        for _ in range(100):
            model(images)
        found[text] = record(model, 2, images)
    return found


def test_recorded_batch_norm(recordings):
    """After 100 identical batches BN's running statistics are the batch's (0.9¹⁰⁰ = 3e-5)."""
    bn = recordings["bn"]
    assert bn.before.shape == bn.after.shape == (128 * 16, 16)
    torch.testing.assert_close(bn.after.mean(0), torch.zeros(16), atol=0.01, rtol=0)
    torch.testing.assert_close(bn.after.std(0), torch.ones(16), atol=0.01, rtol=0)
    assert torch.equal(bn.responsibilities(3), torch.ones(128 * 16, 1))


def test_recorded_mixture(recordings):
    """With responsibilities and moments of its own, y follows from SPEC's sum over k."""
    mn = recordings["mn:groups=2"]
    channel = 11  # in the second group, channels 8 to 15
    nu = mn.responsibilities(channel)
    assert nu.shape == (128 * 16, 3)
    z = (mn.before[:, channel, None] - mn.mean[:, channel]) / mn.var[:, channel].sqrt()
    expected = (nu * z * mn.mixing_weight[1].clamp_min(1e-3).rsqrt()).sum(dim=1)
    torch.testing.assert_close(mn.after[:, channel], expected, rtol=1e-3, atol=1e-3)


def test_most_mixed_channel():
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(400, 3, generator=generator)
    before[:200, 1] += 8.0
    mixture = Activations(
        before,
        before,
        torch.tensor([[0.5, 0.5]]),
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 8.0, 0.0]]),
        torch.ones(2, 3),
    )
    assert mixture.most_mixed_channel() == 1
    assert mixture.gain(1) > 0.5
    assert abs(mixture.gain(0)) < 0.05


def test_activations_plot(tmp_path, recordings):
    save_activations(recordings, 5, "title", tmp_path / "activations.png")
    assert _is_png(tmp_path / "activations.png")


def _demo(tmp_path, *more: str) -> list[str]:
    small = ["--width", "0.0625", "--steps", "4", "--evaluations", "4", "--batch-size", "16"]
    return [*small, "--device", "cpu", "--out", str(tmp_path / "out"), "--no-benchmark", *more]


@pytest.fixture
def small_data(monkeypatch, quadrants):
    monkeypatch.setattr(demo, "load", lambda data, download_to: quadrants)


def test_demo(tmp_path, capsys, small_data):
    assert demo.main(_demo(tmp_path, "--norm", "bn", "mn", "mn:k=2", "--seeds", "2")) == 0
    printed = capsys.readouterr().out
    for name in ("table.txt", "runs.json", "accuracy.png", "activations.png"):
        path = tmp_path / "out" / name
        assert path.exists()
        assert f"saved {path}" in printed
    assert len(re.findall(r"^run +\d+/12 ", printed, re.MULTILINE)) == 12
    assert "mn:k=2 at learning rate 0.005" in printed
    assert (tmp_path / "out" / "table.txt").read_text(encoding="utf-8") in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--norm", "gn"], "'gn'"),
        (["--norm", "mn:layers=9"], "no normalization layer 9"),
        (["--device", "nonsense"], "nonsense"),
        (["--steps", "0"], "--steps"),
        (["--model", "vgg"], "--model"),
    ],
)
def test_bad_option_trains_nothing(tmp_path, capsys, small_data, options, message):
    with pytest.raises(SystemExit) as exit_:
        demo.main(_demo(tmp_path, *options))
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "run " not in captured.out


def test_missing_data_is_one_clear_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        demo.main(_demo(tmp_path, "--data", str(tmp_path / "nowhere")))
    assert f"error: {tmp_path / 'nowhere'}: no such file or folder" in capsys.readouterr().err


def test_output_folder_that_is_a_file(tmp_path, capsys, small_data):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(SystemExit):
        demo.main(_demo(tmp_path))
    assert "--out" in capsys.readouterr().err
