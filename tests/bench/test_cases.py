"""The declared grid: what the benchmark promises to cover."""

import pytest
import torch

from bench.cases import SHAPES, Case, fits, full_plan, quick_plan, shows_heavy


def test_full_plan_covers_every_declared_factor():
    plan = full_plan()
    assert {case.shape.name for case in plan} >= {shape.name for shape in SHAPES}
    assert {case.dtype for case in plan} == {torch.float32, torch.bfloat16, torch.float16}
    assert {case.layout for case in plan} == {"contiguous", "channels_last"}
    assert {case.num_components for case in plan} == {1, 2, 3, 5, 8}
    assert {case.groups for case in plan} == {1, "C/16", "C"}
    assert {case.em_iters for case in plan} == {0, 1, 2}
    assert {case.phase for case in plan} == {"train", "forward", "eval", "em"}
    assert {case.shape.kind for case in plan} == {
        "image", "signal", "volume", "latency", "scaling", "huge"
    }  # fmt: skip


@pytest.mark.parametrize("plan", [full_plan, quick_plan])
def test_ids_are_unique_and_groups_divide_channels(plan):
    cases = plan()
    assert len({case.id for case in cases}) == len(cases)
    assert all(case.shape.channels % case.num_groups == 0 for case in cases)


def test_every_image_shape_has_the_base_setting_in_both_layouts():
    plan = set(full_plan())
    for shape in SHAPES:
        if shape.kind == "image":
            assert {Case(shape), Case(shape, layout="channels_last")} <= plan, shape.name
        assert shape.origin, shape.name


def test_one_case_passes_2_to_the_31_and_no_cpu_gets_it():
    huge = [case for case in full_plan() if case.shape.elements > 2**31]
    assert len(huge) == 1
    assert fits(huge[0], "cuda")
    assert not fits(huge[0], "cpu")
    shape = huge[0].shape
    assert shape.size[0] % shape.repeats == 0
    # An index that wraps at 2³¹ or 2³² must not land on the same data.
    block = shape.elements // shape.repeats
    assert 2**31 % block
    assert 2**32 % block


def test_groups_by_name():
    shape = next(s for s in SHAPES if s.name == "cifar-cnn.conv2")
    assert [Case(shape, groups=g).num_groups for g in (1, "C/16", "C")] == [1, 8, 128]


def test_quick_plan_fits_a_cpu_and_shows_the_reference_somewhere():
    plan = quick_plan()
    assert all(fits(case, "cpu") for case in plan)
    assert any(shows_heavy(case, quick=True) for case in plan)
    assert {case.layout for case in plan} == {"contiguous", "channels_last"}
