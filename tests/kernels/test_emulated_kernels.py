"""The CUDA kernels against the reference in float64: their own source, run on the CPU.

With a GPU the same tests run there too. Memory that a kernel must write holds NaN before.
"""

from typing import Any

import pytest
import torch

from mixnorm_cuda.kernels.native import ops
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.types import BatchMoments, Mixture
from tests.kernels.operators import EPS, Problem, check, check_same, relative_error, views
from tests.support import Target

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
FAMILIES = pytest.mark.parametrize("family", ["streaming", "resident", "cluster", "small"])
# One position to thousands, one channel to hundreds, none of them round.
SHAPES = ((2, 3), (63, 16), (1, 24, 1025), (2, 1, 63), (4, 17, 9, 9), (9, 32, 2, 2), (3, 64, 7, 7))


@pytest.fixture(autouse=True)
def _plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIXNORM_CUDA_KERNELS", raising=False)


def problem(target: Target, *arguments: Any, **options: Any) -> Problem:
    emulated = target.backend == "emulated"
    return Problem(*arguments, **options, device=target.device, emulated=emulated)


@LAYOUTS
@FAMILIES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("components", [1, 3])
def test_shapes(
    cuda_target: Target,
    shape: tuple[int, ...],
    components: int,
    family: str,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    check(problem(cuda_target, shape, components, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("components", [2, 4, 5, 8, 11, 16])
def test_components(cuda_target: Target, components: int, channels_last: bool) -> None:
    check(problem(cuda_target, (3, 24, 6, 6), components, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("groups", [2, 8, 24])
@pytest.mark.parametrize("components", [1, 3])
def test_groups(cuda_target: Target, components: int, groups: int, channels_last: bool) -> None:
    check(problem(cuda_target, (4, 24, 9, 9), components, groups, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "groups"), [((3, 24, 8, 8), 1), ((3, 24, 9, 9), 24), ((40, 3, 2, 2), 1)], ids=str
)
def test_dtypes(
    cuda_target: Target,
    shape: tuple[int, ...],
    groups: int,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    check(problem(cuda_target, shape, 3, groups, dtype, channels_last))


@LAYOUTS
@FAMILIES
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
def test_options(
    cuda_target: Target,
    options: dict[str, Any],
    family: str,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    check(problem(cuda_target, (3, 20, 11, 11), channels_last=channels_last), **options)


def test_affine_pairs(cuda_target: Target) -> None:
    """None, one for all components (gradients summed over them), and half precision."""
    check(problem(cuda_target, (3, 20, 7, 7), affine=False))
    p = problem(cuda_target, (3, 20, 7, 7))
    each = p.operators()
    p.weight, p.bias = p.weight[1].half(), p.bias[1].half()
    shared = p.operators()
    exact = p.reference(torch.float64)
    for name in ("dweight", "dbias", "eval dweight", "eval dbias"):
        assert shared[name].shape == (20,)
        assert each[name].shape == (3, 20)
        wanted = exact[name].sum(0) if exact[name].dim() == 2 else exact[name]
        assert relative_error(shared[name], wanted) <= 1e-5


@pytest.mark.parametrize("name", views())
def test_strides_do_not_matter(cuda_target: Target, name: str) -> None:
    """Any view of the input gives what its contiguous copy gives, and stays as it was."""
    view = views()[name][:, :, :5].to(cuda_target.device)
    p = problem(cuda_target, tuple(view.shape))
    before = view.clone()
    p.x = view.contiguous()
    wanted = p.operators()
    p.x, p.dy = view, p.dy.transpose(-1, -2).contiguous().transpose(-1, -2)
    found = p.operators()
    assert torch.equal(view, before)
    check_same(found, wanted)
    assert found["y"].is_contiguous()


@LAYOUTS
def test_large_means(cuda_target: Target, channels_last: bool) -> None:
    """|mean| / std of 1e4: at K = 1 at most 4 times the error of BatchNorm, at K = 3 1e-3."""
    p = problem(cuda_target, (4, 8, 9, 9), 1, channels_last=channels_last, offset=2e4, affine=False)
    exact = p.reference(torch.float64)["y"]
    batch_norm = torch.nn.functional.batch_norm(p.x, None, None, training=True, eps=EPS)
    allowed = 4 * relative_error(batch_norm, exact) + 1e-7
    assert relative_error(p.operators()["y"], exact) <= allowed
    p = problem(cuda_target, (4, 8, 9, 9), 3, channels_last=channels_last, offset=2e4)
    assert relative_error(p.operators()["y"], p.reference(torch.float64)["y"]) <= 1e-3


@pytest.mark.parametrize("components", [1, 3])
def test_empty_batch(cuda_target: Target, components: int) -> None:
    p = problem(cuda_target, (0, 6, 4, 4), components)
    found = p.operators()
    assert found["y"].shape == found["dx"].shape == (0, 6, 4, 4)
    for name in ("moments.mass", "dweight", "dbias", "dmixture.mean", "eval dweight"):
        assert torch.equal(found[name], torch.zeros_like(found[name])), name
    torch.testing.assert_close(found["moments.mean"], p.mixture.mean)


def test_empty_component_keeps_its_mean(cuda_target: Target) -> None:
    p = problem(cuda_target, (4, 6, 9, 9))
    p.mixture.mean[1] += 1e3
    moments = ops.moments(p.x, p.mixture, eps=EPS, emulated=p.emulated)
    assert moments.mass[0, 1] == 0
    torch.testing.assert_close(moments.mean[1], p.mixture.mean[1])
    assert torch.equal(moments.var[1], torch.zeros_like(moments.var[1]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("components", [1, 3])
@LAYOUTS
def test_non_finite_input_reaches_the_output(
    cuda_target: Target, components: int, channels_last: bool, value: float
) -> None:
    p = problem(cuda_target, (4, 20, 9, 9), components, channels_last=channels_last)
    p.x[2, 5, 3, 3] = value
    found = p.operators()
    assert not found["y"][2, 5, 3, 3].isfinite()
    assert not found["eval y"][2, 5, 3, 3].isfinite()
    others = torch.ones(4, 9, 9, dtype=torch.bool)
    others[2, 3, 3] = False  # in eval nothing leaves the position
    assert found["eval y"].movedim(1, -1).cpu()[others].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_component_keeps_channels_apart(cuda_target: Target, dtype: torch.dtype) -> None:
    """As in BatchNorm, also in a kernel that is made for more components."""
    p = problem(cuda_target, (4, 5, 9), 1, dtype=dtype)
    p.x[1, 2, 3] = float("nan")
    found = p.operators(em_iters=1)
    for name in ("y", "dx", "eval y", "eval dx"):
        assert not found[name][1, 2, 3].isfinite(), name
        assert found[name][:, [0, 1, 3, 4]].isfinite().all(), name
    for name in ("moments.mean", "dweight", "dbias", "eval dweight"):
        assert found[name][:, [0, 1, 3, 4]].isfinite().all(), name


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("on_device", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_update_running(
    cuda_target: Target, groups: int, on_device: bool, dtype: torch.dtype
) -> None:
    p = problem(cuda_target, (5, 6, 4), 3, groups, dtype)
    emulated = cuda_target.backend == "emulated"
    moments = ops.moments(p.x, p.mixture, eps=EPS, emulated=emulated)
    factor = torch.tensor(0.3, device=p.x.device) if on_device else 0.3
    wanted = Mixture(*(t.double().clone() for t in p.mixture))
    running = Mixture(*(t.clone() for t in p.mixture))
    exact = BatchMoments(*(t.double() for t in moments))
    # A float32 tensor's 0.3 is the reference's too.
    reference = ReferenceBackend()
    assert reference.update_running(wanted, exact, 20, float(factor))
    finite = ops.update_running(running, moments, 20, factor, emulated=emulated)
    assert finite.shape == ()
    assert finite.item() is True
    tolerance = 1e-6 if dtype == torch.float32 else 1e-7
    for mine, theirs in zip(running, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance)

    before = [t.clone() for t in running]
    moments.var.view(-1)[-1] = float("nan")
    assert not ops.update_running(running, moments, 20, factor, emulated=emulated)
    assert all(map(torch.equal, running, before))
