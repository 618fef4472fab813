"""Where the Triton kernels are not usable: the reason, the remedy, one warning."""

import importlib.util
import re
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mixnorm_cuda import dispatch
from mixnorm_cuda.kernels.triton import availability


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for cached in (availability._missing, availability._too_old, dispatch._warn):
        cached.cache_clear()
    yield
    for cached in (availability._missing, availability._too_old, dispatch._warn):
        cached.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU and all that Triton needs; tests then take a part away."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(availability, "version", lambda name: "3.6.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(availability.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(availability.Path, "is_file", lambda path: True)
    monkeypatch.delenv("CC", raising=False)


def test_nothing_is_missing(gpu):
    assert availability.missing() is None


@pytest.mark.parametrize(
    ("place", "name", "value", "reason"),
    [
        (importlib.util, "find_spec", lambda name: None, "not installed; install"),
        (availability, "version", lambda name: "3.5.1", "Triton 3.5.1 is too old.*3.6.*install"),
        (torch.cuda, "is_available", lambda: False, "no CUDA device; use"),
        (torch.version, "cuda", None, "install a CUDA build"),
        (torch.cuda, "get_device_capability", lambda index: (7, 5), "Some GPU.*7.5.*8.0.*use"),
        (availability.shutil, "which", lambda name: None, "C compiler.*install gcc"),
        (availability.Path, "is_file", lambda path: False, "Python.h.*install"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_is_said(gpu, monkeypatch, place, name, value, reason):
    monkeypatch.setattr(place, name, value)
    assert re.search(reason, availability.missing())


def test_a_compiler_that_the_environment_names_is_not_replaced(gpu, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(availability.shutil, "which", lambda name: None if "no-" in name else name)
    assert "CC='no-such-compiler'" in availability.missing()


def test_the_interpreter_needs_no_gpu(monkeypatch):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    if availability.missing() is not None:
        pytest.skip(availability.missing())
    x = torch.randn(2, 3)
    assert dispatch.why_not("triton", x, 3, 1) is None
    monkeypatch.delenv("TRITON_INTERPRET")
    assert dispatch.BACKENDS["triton"].refuses(x, 3, 1, False) is not None


@pytest.mark.parametrize(
    ("triton", "numpy", "reason"),
    [("3.6.0", "2.4.1", "needs numpy below 2.4 and finds 2.4.1; install"),
     ("3.6.0", "2.3.5", None),
     ("3.7.0", "2.4.1", None)],
)  # fmt: skip
def test_the_interpreter_of_triton_3_6_needs_an_older_numpy(
    gpu, monkeypatch, triton, numpy, reason
):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(availability, "version", {"triton": triton, "numpy": numpy}.get)
    missing = availability.missing()
    assert missing is None if reason is None else reason in missing


@pytest.fixture
def x_on_gpu():
    """Made before `gpu` claims a device that a CUDA build of PyTorch would go on to ask."""
    with FakeTensorMode():
        return torch.empty(4, 6, 3, device="cuda")


@pytest.mark.parametrize(
    ("place", "name", "value", "reason"),
    [
        (availability.shutil, "which", lambda name: None, "Triton's launcher needs a C compiler"),
        (availability, "version", lambda name: "3.5.1", "Triton 3.5.1 is too old"),
        (torch.cuda, "get_device_capability", lambda index: (7, 5), "Some GPU has compute cap"),
        (importlib.util, "find_spec", lambda name: None, "Triton is not installed"),
    ],
    ids=["compiler", "version", "gpu", "package"],
)
def test_auto_warns_once_that_a_gpu_runs_slowly(
    x_on_gpu, gpu, monkeypatch, place, name, value, reason
):
    monkeypatch.setattr(place, name, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert dispatch.select("auto", x_on_gpu, 3, 1) is dispatch.REFERENCE
    assert len(caught) == 1
    assert issubclass(caught[0].category, RuntimeWarning)
    assert f"runs slowly on this GPU: {reason}" in str(caught[0].message)


def test_auto_takes_triton_on_a_gpu_and_does_not_warn(x_on_gpu, gpu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if dispatch.BACKENDS["cuda"].missing() is not None:
            assert dispatch.select("auto", x_on_gpu, 3, 1).name == "triton"
        # What kernels do not do by design goes to the reference without a word.
        assert dispatch.select("auto", x_on_gpu, 3, 1, True) is dispatch.REFERENCE
