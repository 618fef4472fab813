"""Input sets: layouts, repetition, one mixture for all sets, soft responsibilities."""

import pytest
import torch

from bench.cases import Case, Shape
from bench.inputs import make_inputs, make_sets
from mixnorm_cuda.reference import ReferenceBackend

CPU = torch.device("cpu")
SHAPE = Shape("small", (6, 32, 5, 4), "a test", repeats=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_and_dtype(dtype):
    for layout, memory_format in (
        ("contiguous", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        for inputs in make_sets(Case(SHAPE, dtype, layout), CPU, 3):
            for t in (inputs.x, inputs.dy):
                assert t.shape == SHAPE.size
                assert t.dtype == dtype
                assert t.is_contiguous(memory_format=memory_format)


def test_sets_differ_in_data_and_memory_but_share_the_mixture():
    first, second = make_sets(Case(SHAPE), CPU, 2)
    assert first.x.data_ptr() != second.x.data_ptr()
    assert not torch.equal(first.x, second.x)
    assert first.mixture is second.mixture


def test_repeated_batch():
    case = Case(Shape("repeated", (6, 8, 3), "a test", repeats=3))
    x = make_inputs(case, CPU).x
    assert x.shape == (6, 8, 3)
    assert torch.equal(x[:2], x[2:4])
    assert torch.equal(x[:2], x[4:])
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("groups", [1, "C/16", "C"])
def test_responsibilities_are_soft(groups):
    """Otherwise the check would not see the gradient through ν."""
    inputs = make_inputs(Case(SHAPE, groups=groups), CPU)
    nu = ReferenceBackend().responsibilities(inputs.x, inputs.mixture, eps=1e-5)
    assert nu.amax(2).median() < 0.95
