"""build_info() and the command that prints it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mixnorm_cuda as mx
from mixnorm_cuda import info

BACKENDS = ["reference", "cpu", "triton", "cuda", "emulated"]


@pytest.fixture(autouse=True)
def _no_backend_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIXNORM_BACKEND", raising=False)


def test_build_info() -> None:
    found = mx.build_info()
    assert found["mixnorm_cuda"] == mx.__version__
    assert found["torch"] == torch.__version__
    assert found["torch_cuda"] == torch.version.cuda
    assert found["python"] == platform.python_version()
    assert list(found["backends"]) == BACKENDS
    assert found["backends"]["reference"] is None
    for name, reason in found["backends"].items():
        assert reason is None or len(reason) > 20, name
    assert found["devices"][0].startswith(f"cpu ({torch.get_num_threads()} threads")
    assert len(found["devices"]) == 1 + torch.cuda.device_count()
    assert set(found["libraries"]) == {"cpu", "cuda", "emulated"}
    for library in found["libraries"].values():
        assert (library["path"] is None) <= (library["missing"] is not None)
        assert library["path"] is None or Path(library["path"]).is_file()


def test_build_info_is_a_fresh_copy() -> None:
    mx.build_info()["backends"].clear()
    assert mx.build_info()["backends"]


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert info.main(list(arguments)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """Versions, backends with reasons, devices."""
    printed = output(capsys)
    lines = printed.splitlines()
    assert any(line.split() == ["mixnorm_cuda", mx.__version__] for line in lines)
    assert any(line.split() == ["torch", torch.__version__] for line in lines)
    assert [line.split()[0] for line in lines if line.startswith("  ")][:5] == BACKENDS
    assert any(line.split() == ["reference", "usable"] for line in lines)
    for name, reason in mx.build_info()["backends"].items():
        if reason is not None:
            assert any(line.split(maxsplit=1) == [name, f"no: {reason}"] for line in lines)
    assert any(line.strip().startswith("cpu (") for line in lines)
    assert "auto" not in printed.split("devices")[1]


def test_with_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    printed = output(capsys, "--shape", "8,16,4,4", "--dtype", "bfloat16", "--groups", "4")
    _, _, choice = printed.partition("backends for (8, 16, 4, 4) torch.bfloat16 on cpu\n")
    # Deeper are the plans of the kernels that have some.
    lines = [line for line in choice.splitlines() if not line.startswith("    ")]
    assert [line.split()[0] for line in lines] == [*BACKENDS, "auto"]
    assert lines[0].split() == ["reference", "serves"]
    x = torch.empty(8, 16, 4, 4, dtype=torch.bfloat16)
    expected = mx.dispatch.select("auto", x, 3, 4).name
    assert lines[-1].split() == ["auto", "takes", repr(expected)]


def test_as_a_command() -> None:
    """In a process of its own, where a warning of runpy would end it."""
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "mixnorm_cuda.info", "--shape=8,4"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        cwd=Path(mx.__file__).parents[1],
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "backends for (8, 4) torch.float32 on cpu" in result.stdout


def test_shape_larger_than_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main(["--shape", "4096,4096,1024,1024"]) == 0
    assert "auto takes" in capsys.readouterr().out


def test_backend_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIXNORM_BACKEND", "reference")
    assert "auto takes 'reference'" in output(capsys, "--shape", "8,16,4,4")
    monkeypatch.setenv("MIXNORM_BACKEND", "triton")
    if mx.dispatch.why_not("triton", torch.empty(8, 16, 4, 4), 3, 1) is not None:
        printed = output(capsys, "--shape", "8,16,4,4")
        assert "auto raises: MIXNORM_BACKEND='triton' cannot serve" in printed
    monkeypatch.setenv("MIXNORM_BACKEND", "fastest")
    printed = output(capsys, "--shape", "8,16,4,4")
    assert "auto raises: MIXNORM_BACKEND='fastest': expected one of" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "8"], "input has shape (8,): expected [N, C, *S]"),
        (["--shape", "8,x,4"], "--shape 8,x,4: expected sizes such as 64,256,56,56"),
        (["--shape", ""], "--shape : expected sizes such as"),
        (["--shape", "8,-1"], "--shape 8,-1: expected sizes"),
        (["--shape", "8,4", "--dtype", "nn"], "--dtype nn: expected a name such as bfloat16"),
        (["--shape", "8,4", "--dtype", "float23"], "--dtype float23: expected a name"),
        (["--shape", "8,4", "--dtype", "int32"], "input has dtype torch.int32: expected one of"),
        (["--shape", "8,4", "--groups", "3"], "groups=3: expected a divisor of the 4 channels"),
        (["--shape", "8,4", "--num-components", "0"], "num_components=0: expected 1 or more"),
        (["--shape", "8,4", "--device", "quantum"], "device"),
        (["--groups", "many"], "invalid int value: 'many'"),
        (["--size", "8,4"], "unrecognized arguments: --size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A usage message and exit status 2, and nothing half printed before it."""
    with pytest.raises(SystemExit) as raised:
        info.main(arguments)
    assert raised.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
def test_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        info.main(["--shape", "8,4", "--device", "cuda"])
    assert raised.value.code == 2
    assert "CUDA" in capsys.readouterr().err or torch.version.cuda
