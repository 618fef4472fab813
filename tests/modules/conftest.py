"""Fixtures of the layer tests."""

import pytest
import torch

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@pytest.fixture(params=[pytest.param(d, marks=[pytest.mark.cuda] * (d == "cuda")) for d in DEVICES])
def device(request: pytest.FixtureRequest) -> str:
    return request.param
