"""The comparison names what got slower, and nothing else."""

import pytest

from bench import compare
from bench.baselines import BatchNorm
from bench.cases import Case, Shape
from bench.metrics import fill, geometric_means
from bench.ours import MixtureNorm
from bench.record import Result, row_for, save
from tests.bench.runs import CASES, measure, simulated


@pytest.fixture
def paths(tmp_path):
    def write(*results: Result) -> list[str]:
        return [str(save(r, tmp_path / str(i))) for i, r in enumerate(results)]

    return write


def test_the_same_run_twice_agrees(paths, capsys):
    assert compare.main(paths(simulated(1), simulated(2))) == 0
    assert "40 rows of ours compared: 0 slower, 0 faster, 0 wrong, 0 missing" in (
        capsys.readouterr().out
    )


def test_a_slowed_kernel_is_named_and_no_other(paths, capsys):
    assert compare.main(paths(simulated(1), simulated(2, factor=1.5))) == 1
    out = capsys.readouterr().out
    assert "1 slower" in out
    slower = out.partition("Slower beyond the noise")[2].partition("\n\n")[0]
    assert CASES[0].id in slower
    assert not any(case.id in slower for case in CASES[1:])


def test_a_kernel_made_faster_is_no_regression(paths, capsys):
    assert compare.main(paths(simulated(1, factor=1.5), simulated(2))) == 0
    assert "0 slower, 1 faster" in capsys.readouterr().out


def test_a_slower_machine_is_no_regression(paths, capsys):
    assert compare.main(paths(simulated(1), simulated(2, machine=1.6))) == 0
    out = capsys.readouterr().out
    assert "0 slower, 0 faster" in out
    assert "the machine or a library changed" in out


def test_a_change_within_the_stated_spread_is_not_named(paths):
    old, new = simulated(1, noise=0.3), simulated(2, factor=1.3, noise=0.3)
    assert compare.main(paths(old, new)) == 0


def test_a_slowed_kernel_of_a_real_run_is_named(cpu_backend, paths, capsys):
    case = Case(Shape("small", (4, 16, 6, 5), "a test"))
    cpu_backend()
    old = measure([case], BatchNorm(), MixtureNorm("cpu"))
    cpu_backend(seconds=0.1)
    new = measure([case], BatchNorm(), MixtureNorm("cpu"))
    assert compare.main(paths(old, new)) == 1
    slower = capsys.readouterr().out.partition("Slower beyond the noise")[2].partition("\n\n")[0]
    assert any(line.startswith(case.id) and " cpu " in line for line in slower.splitlines())


def test_a_row_gone_red_is_named(paths, capsys):
    new = simulated(2)
    row = next(r for r in new.rows if r.ours)
    row.check, row.note, row.median = "red", "out of bounds: dx", None
    assert compare.main(paths(simulated(1), new)) == 1
    assert f"{row.case}, cpu: out of bounds: dx" in capsys.readouterr().out


def test_missing_rows_are_named(paths, capsys):
    new = simulated(2)
    new.rows = [r for r in new.rows if r.case != CASES[3].id]
    assert compare.main(paths(simulated(1), new)) == 0
    assert f"Not in the new run\n  {CASES[3].id}, cpu" in capsys.readouterr().out


def test_other_devices_and_files_are_refused(paths, tmp_path, capsys):
    other = simulated(2)
    other.environment["device"] = "another"
    with pytest.raises(SystemExit):
        compare.main(paths(simulated(1), other))
    assert "device differs: 'test' and 'another'" in capsys.readouterr().err
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    with pytest.raises(SystemExit):
        compare.main([str(bad), str(bad)])
    assert "expected a benchmark result of schema" in capsys.readouterr().err


def test_ratio_is_to_the_fastest_batch_norm():
    case = CASES[0]
    times = {"bn": {0: 4.0, 1: 8.0}, "bn-compiled": {0: 2.0, 1: 4.0}, "cpu": {0: 3.0, 1: 6.0}}
    rows = {name: row_for(case, name, name == "cpu") for name in times}
    for row in rows.values():
        fill(row, case, times)
    assert rows["cpu"].ratio == pytest.approx(1.5)
    assert rows["cpu"].relative == pytest.approx(0.75)
    assert rows["bn"].ratio == pytest.approx(2)
    assert rows["bn-compiled"].ratio == pytest.approx(1)


def test_geometric_means_by_layout_and_over_both():
    rows = []
    for layout, ratios in (("contiguous", (0.5, 2.0)), ("channels_last", (4.0, 1.0))):
        for i, ratio in enumerate(ratios):
            row = row_for(CASES[i].vary(layout=layout), "cpu", ours=True)
            row.ratio = ratio
            rows.append(row)
    skipped = row_for(CASES[0].vary(num_components=8), "cpu", ours=True)
    skipped.ratio = 100.0
    means = {m.layout: m for m in geometric_means([*rows, skipped])}
    assert means["contiguous"].ratio == pytest.approx(1)
    assert means["channels_last"].ratio == pytest.approx(2)
    assert means["both"].ratio == pytest.approx(2**0.5)
    assert (means["both"].cases, means["both"].worst, means["both"].worst_shape) == (4, 4.0, "s0")
