"""The passes in parts, as `SyncMixtureNorm` runs them: two halves of a batch make the whole."""

import pytest
import torch

from mixnorm_cuda import dispatch
from mixnorm_cuda.distributed.moments import merged
from mixnorm_cuda.types import BatchMoments, Forward, Gradients, GradientSums
from tests.kernels.triton.cases import BOUNDS, REFERENCE, Case
from tests.support import EPS, assert_close

TRITON = dispatch.BACKENDS["triton"]


def in_parts(
    case: Case,
    sizes: tuple[int, ...],
    *,
    mixing_scale: bool = True,
    responsibility_grad: bool = True,
) -> tuple[Forward, Gradients]:
    """Forward and backward of the whole batch, its parts exchanging only sums."""
    passes = dispatch.split("triton")
    xs, dys = case.x.split(sizes), case.dy.split(sizes)
    options = {"eps": EPS, "mixing_scale": mixing_scale}
    own = [passes.moments(x, case.mixture, eps=EPS) for x in xs]
    moments = merged(BatchMoments(*map(torch.stack, zip(*own, strict=True))), case.mixture.mean)
    ys = [passes.normalize(x, case.mixture, moments, *case.affine, **options) for x in xs]
    parts = [
        passes.backward_sums(dy, x, case.mixture, moments, eps=EPS)
        for dy, x in zip(dys, xs, strict=True)
    ]
    sums = GradientSums(*(torch.stack(h).sum(0) for h in zip(*parts, strict=True)))
    grads = [
        passes.backward_apply(
            dy, x, case.mixture, moments, sums, *case.affine,
            responsibility_grad=responsibility_grad, **options,
        )
        for dy, x in zip(dys, xs, strict=True)
    ]  # fmt: skip
    forward = Forward(torch.cat(ys), moments, case.mixture, moments.mass)
    return forward, grads[0]._replace(x=torch.cat([g.x for g in grads]))


def check(case: Case, sizes: tuple[int, ...], **options: bool) -> None:
    forward, grads = in_parts(case, sizes, **options)
    wanted = case.reference(evaluated=False, mixture_grad=False, **options)
    output, gradient = BOUNDS[case.dtype]
    exact, derived = BOUNDS[case.mixture.mean.dtype]
    assert_close(forward.y, wanted["y"], output)
    assert_close(grads.x, wanted["dx"], gradient)
    for name, value in forward.moments._asdict().items():
        assert_close(value, wanted[f"moments.{name}"], exact)
    for value, expected in ((grads.weight, wanted["dweight"]), (grads.bias, wanted["dbias"])):
        assert_close(value, expected if value.dim() == 2 else expected.sum(0), derived)


@pytest.mark.parametrize(
    ("components", "groups", "channels_last"),
    [(3, 1, True), (3, 3, False), (3, 6, True), (1, 1, False)],
)
def test_halves_make_the_whole(components, groups, channels_last, device):
    case = Case((5, 6, 4, 4), components, groups, channels_last=channels_last, device=device)
    check(case, (2, 3))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float64, {"mixing_scale": False}),
        (torch.bfloat16, {"responsibility_grad": False}),
    ],
    ids=str,
)
def test_options(dtype, options, device):
    check(Case((4, 6, 5, 5), dtype=dtype, affine="shared", device=device), (1, 3), **options)


def test_an_empty_part(device):
    """A process without a batch gives nothing, and gets the gradients of γ and β all the same."""
    check(Case((3, 6, 4, 4), device=device), (0, 3))


def test_triton_serves_the_parts_itself():
    assert dispatch.split("triton") is TRITON
    assert dispatch.split("triton") is not REFERENCE
