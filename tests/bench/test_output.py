"""What a run writes: files, tables, plots, README; and the command line."""

import csv
import json
import sys
import time

import pytest

from bench import __main__ as command
from bench import readme
from bench.baselines import BatchNorm, Copy
from bench.ours import MixtureNorm
from bench.plots import draw
from bench.progress import progress
from bench.record import load, save
from bench.report import seconds, text
from tests.bench.runs import simulated


def test_json_round_trip_and_csv(tmp_path):
    result = simulated(1)
    path = save(result, tmp_path)
    assert path.name == "cpu-test-2000-01-01.json"
    again = load(path)
    assert [r.key for r in again.rows] == [r.key for r in result.rows]
    assert again.rows[2].ratio == pytest.approx(result.rows[2].ratio, rel=1e-4)
    assert again.environment == result.environment
    with path.with_suffix(".csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(result.rows)
    assert {"device", "driver", "torch", "commit", "date", "ratio"} <= set(lines[0])
    assert lines[0]["commit"] == "abc"


def test_load_names_a_file_of_another_schema(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"schema": 0, "rows": []}))
    with pytest.raises(ValueError, match=r"old\.json: expected a benchmark result of schema 1"):
        load(path)


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (2.5, "2.5 s"), (0.00123, "1.23 ms"), (4.56e-6, "4.56 µs")]
)
def test_seconds(value, shown):
    assert seconds(value) == shown


def test_table_shows_every_row_and_what_was_left_out():
    result = simulated(1)
    result.left_out = [
        {"case": f"c{i}", "implementation": "cuda", "reason": "no device"} for i in range(9)
    ]
    shown = text(result)
    assert shown.count("\n  cpu ") == len({r.case for r in result.rows})
    assert "cuda: no device (9 cases)" in shown
    assert "Geometric means" in shown


def test_plots(tmp_path):
    pytest.importorskip("matplotlib", reason="the plots are matplotlib's")
    result = simulated(1)
    for row in result.rows[:9]:
        row.shape, row.num_components = "s0", (1, 3, 8)[result.rows.index(row) // 3]
    paths = draw(result, tmp_path)
    assert [p.name.rpartition("-")[2] for p in paths] == ["ratio.png", "copy.png", "scaling.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
    result.rows = []
    assert draw(result, tmp_path) == []


def test_readme_is_generated_from_the_committed_results(capsys):
    assert readme.main(["--check"]) == 0, "run python -m bench.readme"
    capsys.readouterr()


def test_status_table_tells_what_never_ran_and_what_is_wrong(tmp_path):
    result = simulated(1)
    path = save(result, tmp_path)
    table = readme.status_table([(path, result)])
    cpu = next(line for line in table.splitlines() if line.startswith("| `cpu`"))
    assert "40 cases right; commit `abc`, 2000-01-01, test" in cpu
    assert "never run on a GPU so far" in cpu
    triton = next(line for line in table.splitlines() if line.startswith("| `triton`"))
    assert "never run on a CPU so far" in triton
    next(r for r in result.rows if r.ours).check = "red"
    assert "**1 of 40 cases wrong**" in readme.status_table([(path, result)])


def test_rendering_replaces_sections_and_keeps_the_rest(tmp_path):
    page = "top\n"
    sections = (
        "status",
        "compiled",
        "compiled cuda",
        "compiled cuda per channel",
        "compiled cuda matrix",
        "predictions",
        "cpu",
        "cuda",
    )
    for name in sections:
        page += f"{readme.BEGIN.format(name)}\nold\n{readme.END.format(name)}\nmiddle\n"
    result = simulated(1)
    new = readme.rendered(page, [(save(result, tmp_path), result)])
    assert "\nold\n" not in new
    assert new.startswith("top\n")
    assert new.count("middle") == len(sections)
    assert "Never run on a GPU so far: no figure." in new
    assert readme.rendered(new, [(save(result, tmp_path), result)]) == new
    with pytest.raises(ValueError, match="no section between"):
        readme.rendered("nothing", [])


@pytest.fixture
def light(monkeypatch):
    """The command with the implementations that need no compiler."""
    monkeypatch.setattr(command, "baselines", lambda: [Copy(), BatchNorm()])
    monkeypatch.setattr(command, "ours", lambda names: [MixtureNorm(name) for name in names])
    monkeypatch.setattr(command, "peak_copy_bandwidth", lambda timer, device: 1e10)
    monkeypatch.setattr(command.timing, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(command, "STARTED", time.monotonic())


ARGUMENTS = ["--device", "cpu", "--cases", "tiny.train", "--filter", "* train *", "--budget", "20"]


def test_command_writes_json_csv_and_table(light, cpu_backend, tmp_path, capsys):
    cpu_backend()
    assert command.main([*ARGUMENTS, "--backend", "cpu", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    result = load(path)
    assert [r.implementation for r in result.rows] == ["bn", "cpu"]
    assert {"device", "date", "commit", "versions", "threads"} <= set(result.environment)
    out = capsys.readouterr().out
    assert "tiny.train train fp32 contiguous K=3" in out
    assert str(path) in out


def test_command_refuses_a_wrong_kernel_and_fails(light, cpu_backend, tmp_path, capsys):
    cpu_backend(dx=lambda dx: dx * 1.01)
    assert command.main([*ARGUMENTS, "--backend", "cpu", "--out", str(tmp_path)]) == 1
    assert "RED: tiny.train train fp32 contiguous K=3, cpu: out of bounds: dx" in (
        capsys.readouterr().out
    )


def test_list_measures_nothing(monkeypatch, capsys):
    monkeypatch.setattr(command, "Runner", None)
    assert command.main(["--list", "--quick", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "DCGAN generator" in out
    assert command.main(["--list", "--device", "cpu", "--cases", "resnet50.2*"]) == 0
    assert "GPU; --cases names it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "opencl"], "--backend opencl: expected some of reference, cpu"),
        (["--cases", "alexnet"], "--cases alexnet --filter None: no case of the plan matches"),
        (["--budget", "0"], "--budget 0.0: expected a number of seconds above 0"),
    ],
)
def test_arguments_that_choose_nothing(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_without_tqdm_there_is_a_line_per_step(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress(2) as begin:
        begin("first")
        begin("second")
    assert capsys.readouterr().err == "1/2  first\n2/2  second\n"


def test_without_matplotlib_a_line_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw(simulated(1), tmp_path) == []
    assert "matplotlib is not installed" in capsys.readouterr().out
