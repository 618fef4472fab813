"""The fused CPU operators against the reference in float64, over shapes that break blocking."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from mixnorm_cuda.kernels.native import loader, ops
from tests.kernels.operators import EPS, Problem, check, check_same, relative_error, views

pytestmark = pytest.mark.skipif(
    loader.missing("cpu") is not None, reason=f"no CPU operators: {loader.missing('cpu')}"
)

# Channels 1, 3, 17, 1000; positions 2, 63, 4097; runs of 1, 4, 9, 49, 81 and 1600 positions.
SHAPES = (
    (2, 3),
    (63, 16),
    (1, 24, 4097),
    (2, 1, 63),
    (4, 17, 9, 9),
    (9, 32, 2, 2),
    (7, 12, 3, 3),
    (3, 64, 7, 7),
    (2, 12, 40, 40),
    (2, 6, 3, 4, 5),
    (130, 1000),
    (3, 1000, 7, 7),
)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("components", [1, 2, 3])
def test_shapes(shape: tuple[int, ...], components: int, channels_last: bool) -> None:
    check(Problem(shape, components, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("components", [4, 5, 6, 7, 8, 9, 16])
def test_components(components: int, channels_last: bool) -> None:
    check(Problem((5, 24, 11, 11), components, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(4, 24, 9, 9), (50, 24)], ids=str)
@pytest.mark.parametrize("groups", [2, 8, 24])
@pytest.mark.parametrize("components", [1, 3])
def test_groups(shape: tuple[int, ...], components: int, groups: int, channels_last: bool) -> None:
    check(Problem(shape, components, groups, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "groups"), [((5, 24, 9, 9), 1), ((5, 24, 9, 9), 24), ((40, 3, 2, 2), 1)], ids=str
)
@pytest.mark.parametrize("components", [1, 3])
def test_dtypes(
    shape: tuple[int, ...], groups: int, components: int, dtype: torch.dtype, channels_last: bool
) -> None:
    check(Problem(shape, components, groups, dtype, channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"em_iters": 2},
        {"mixing_scale": False},
        {"responsibility_grad": False},
        {"em_iters": 1, "mixing_scale": False, "responsibility_grad": False},
    ],
    ids=str,
)
def test_options(options: dict[str, Any], channels_last: bool) -> None:
    check(Problem((6, 20, 13, 13), channels_last=channels_last), **options)


def test_shared_affine_pairs_and_none() -> None:
    problem = Problem((6, 20, 13, 13))
    problem.weight, problem.bias = (
        torch.randn(20).expand(3, 20),
        torch.randn(20).expand(3, 20),
    )
    check(problem)
    check(Problem((6, 20, 13, 13), affine=False))


@pytest.mark.parametrize("name", views())
def test_strides_do_not_matter(name: str) -> None:
    """Any view of the input gives what its contiguous copy gives, and stays as it was."""
    view = views()[name]
    problem = Problem(tuple(view.shape))
    before = view.clone()
    problem.x = view.contiguous()
    wanted = problem.operators()
    problem.x, problem.dy = view, problem.dy.transpose(-1, -2).contiguous().transpose(-1, -2)
    found = problem.operators()
    assert torch.equal(view, before)
    check_same(found, wanted)
    assert found["y"].is_contiguous()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 4, 24])
def test_same_bits_on_one_and_two_threads(groups: int, channels_last: bool) -> None:
    problem = Problem((16, 24, 33, 33), groups=groups, channels_last=channels_last)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = problem.operators(em_iters=1)
        torch.set_num_threads(2)
        two = problem.operators(em_iters=1)
    finally:
        torch.set_num_threads(before)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize("channels_last", [False, True])
def test_large_means_with_one_component(channels_last: bool) -> None:
    """|mean| / std of 1e4: at most 4 times the error of BatchNorm."""
    problem = Problem((8, 16, 15, 15), 1, channels_last=channels_last, offset=2e4, affine=False)
    exact = problem.reference(torch.float64)["y"]
    batch_norm = torch.nn.functional.batch_norm(problem.x, None, None, training=True, eps=EPS)
    allowed = 4 * relative_error(batch_norm, exact) + 1e-7
    assert relative_error(problem.operators()["y"], exact) <= allowed


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stale", [0.0, 2e4], ids=["stale mean", "mean near the data"])
def test_large_means_with_three_components(stale: float, channels_last: bool) -> None:
    problem = Problem((8, 16, 15, 15), 3, channels_last=channels_last, offset=2e4)
    problem.mixture = problem.mixture._replace(mean=problem.mixture.mean - 2e4 + stale)
    exact = problem.reference(torch.float64)["y"]
    assert relative_error(problem.operators()["y"], exact) <= 1e-3


@pytest.mark.parametrize("components", [1, 3])
def test_empty_batch(components: int) -> None:
    problem = Problem((0, 6, 4, 4), components)
    found = problem.operators()
    assert found["y"].shape == (0, 6, 4, 4)
    assert found["dx"].shape == (0, 6, 4, 4)
    for name in ("moments.mass", "dweight", "dbias", "dmixture.mean", "eval dweight"):
        assert torch.equal(found[name], torch.zeros_like(found[name])), name
    torch.testing.assert_close(found["moments.mean"], problem.mixture.mean)


def test_empty_component_keeps_its_mean() -> None:
    problem = Problem((4, 6, 9, 9))
    problem.mixture.mean[1] += 1e3
    problem.mixture.mixing_weight[:] = torch.tensor([0.4, 1e-4, 0.5999])  # as running averages end
    moments = ops.moments(problem.x, problem.mixture, eps=EPS)
    assert moments.mass[0, 1] == 0
    torch.testing.assert_close(moments.mean[1], problem.mixture.mean[1])
    assert torch.equal(moments.var[1], torch.zeros(6))
    check(problem)


def test_rows_of_responsibilities_sum_to_one() -> None:
    problem = Problem((4, 6, 9, 9))
    out = ops.forward(
        problem.x, problem.mixture, None, None, eps=EPS, em_iters=0, mixing_scale=True
    )
    total = out.responsibilities.sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))
    torch.testing.assert_close(out.moments.mass.sum(), torch.tensor(4 * 81.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("components", [1, 3])
def test_non_finite_input_reaches_the_output(
    components: int, channels_last: bool, value: float
) -> None:
    problem = Problem((4, 20, 9, 9), components, channels_last=channels_last)
    problem.x[2, 5, 3, 3] = value
    found = problem.operators()
    assert not found["y"][2, 5, 3, 3].isfinite()
    y = found["eval y"]
    assert not y[2, 5, 3, 3].isfinite()
    y = y.movedim(1, -1)  # in eval nothing leaves the position
    others = torch.ones(4, 9, 9, dtype=torch.bool)
    others[2, 3, 3] = False
    assert y[others].isfinite().all()


@pytest.mark.parametrize("capability", ["plain", "avx2", "avx512"])
def test_every_instruction_set(capability: str) -> None:
    """The choice is made once a process: each one the processor has runs in its own."""
    tests = ["test_components", "test_dtypes", "test_non_finite"]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *(__file__, "-k", " or ".join(tests)),
        ],
        env={**os.environ, "MIXNORM_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
