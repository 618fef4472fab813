"""Small cases, and backends that are wrong or slow on purpose."""

import time

import pytest
import torch

from bench.cases import Case, Shape
from mixnorm_cuda import dispatch
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.types import Forward, Gradients

SMALL = Shape("small", (4, 16, 6, 5), "a test")


@pytest.fixture(autouse=True)
def no_backend_override(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture
def case() -> Case:
    return Case(SMALL)


class Altered(ReferenceBackend):
    """The reference under the name of the CPU kernels, with something done to its results."""

    name = "cpu"

    def __init__(self, output=lambda y: y, dx=lambda dx: dx, seconds: float = 0.0) -> None:
        self._output, self._dx, self._seconds = output, dx, seconds

    def forward(self, *args, **kwargs) -> Forward:
        time.sleep(self._seconds)
        result = super().forward(*args, **kwargs)
        return result._replace(y=self._output(result.y))

    def backward(self, *args, **kwargs) -> Gradients:
        result = super().backward(*args, **kwargs)
        return result._replace(x=self._dx(result.x))

    def evaluate(self, *args, **kwargs) -> torch.Tensor:
        return self._output(super().evaluate(*args, **kwargs))


@pytest.fixture
def cpu_backend(monkeypatch):
    """Install an `Altered` backend as ``backend="cpu"``."""

    def install(**alterations) -> None:
        monkeypatch.setitem(dispatch.BACKENDS, "cpu", Altered(**alterations))

    return install
