"""The operators ``mixnorm::triton_*`` as PyTorch sees them: schemas, bodies, registration.

torch.compile keeps them as opaque calls, so there is no graph break; CUDA graphs capture them,
since nothing in them waits for the device. Each runs on the device of ``x``, on its current stream.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from mixnorm_cuda.kernels import fake
from mixnorm_cuda.kernels.triton import autotune
from mixnorm_cuda.kernels.triton.arguments import (
    check_like,
    check_mixture,
    checked,
    checked_moments,
    kept_shape,
    require,
)
from mixnorm_cuda.types import BatchMoments, GradientSums, Mixture

Result = TypeVar("Result")

_THETA = "Tensor mixing_weight, Tensor mean, Tensor var"
_MOMENTS = "Tensor mass, Tensor batch_mean, Tensor batch_var"
_AFFINE = "Tensor? weight, Tensor? bias"
_SCHEMAS = {
    "moments": f"(Tensor x, {_THETA}, float eps) -> (Tensor, Tensor, Tensor)",
    "forward": (
        f"(Tensor x, {_THETA}, {_AFFINE}, float eps, int em_iters, bool mixing_scale) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "backward": (
        f"(Tensor dy, Tensor x, Tensor responsibilities, {_MOMENTS}, {_THETA}, {_AFFINE}, "
        "float eps, bool mixing_scale, bool responsibility_grad, bool mixture_grad) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "normalize": (
        f"(Tensor x, {_THETA}, {_MOMENTS}, {_AFFINE}, float eps, bool mixing_scale) -> Tensor"
    ),
    "backward_sums": (
        f"(Tensor dy, Tensor x, {_THETA}, {_MOMENTS}, float eps) -> (Tensor, Tensor)"
    ),
    "backward_apply": (
        f"(Tensor dy, Tensor x, {_THETA}, {_MOMENTS}, Tensor h1, Tensor h2, {_AFFINE}, float eps, "
        "bool mixing_scale, bool responsibility_grad) -> (Tensor, Tensor, Tensor)"
    ),
    "evaluate": f"(Tensor x, {_THETA}, {_AFFINE}, float eps, bool mixing_scale) -> Tensor",
    "evaluate_backward": (
        f"(Tensor dy, Tensor x, {_THETA}, {_AFFINE}, float eps, bool mixing_scale, "
        "bool responsibility_grad) -> (Tensor, Tensor, Tensor)"
    ),
    "update_running": (
        "(Tensor(a!) running_weight, Tensor(b!) running_mean, Tensor(c!) running_var, "
        "Tensor mass, Tensor mean, Tensor var, int count, float momentum, Tensor? factor) -> Tensor"
    ),
}


# Kernels are imported on first use: Triton takes a second to import and may not be there.


def _launch(stem: str) -> ModuleType:
    return importlib.import_module(f"mixnorm_cuda.kernels.triton.launch_{stem}")


def _run(operator: str, x: Tensor, mixture: Mixture, call: Callable[[], Result]) -> Result:
    """``call()`` on the device of ``x``, with tuned tiles where tuning is asked for."""
    with torch.cuda.device_of(x):
        if not autotune.enabled() or x.numel() == 0:
            return call()
        device = torch.cuda.get_device_name(x.device) if x.is_cuda else "interpreter"
        sizes = f"{tuple(x.shape)} {tuple(x.stride())} {tuple(mixture.mixing_weight.shape)}"
        return autotune.run(operator, f"{device} {x.dtype} {sizes}", call)


def _moments(
    x: Tensor, mixing_weight: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, ...]:
    mixture = checked("moments", x, Mixture(mixing_weight, mean, var), eps)
    return _run(
        "moments", x, mixture, lambda: tuple(_launch("forward").moments(x, mixture, eps=eps))
    )


def _forward(
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    em_iters: int,
    mixing_scale: bool,
) -> tuple[Tensor, ...]:
    mixture = checked("forward", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    require("forward", em_iters >= 0, f"em_iters is {em_iters}: expected 0 or more")
    out = _run(
        "forward",
        x,
        mixture,
        lambda: _launch("forward").forward(
            x, mixture, weight, bias, eps=eps, em_iters=em_iters, mixing_scale=mixing_scale
        ),
    )
    return (out.y, *out.moments, out.responsibilities, *out.mixture)


def _backward(
    dy: Tensor,
    x: Tensor,
    responsibilities: Tensor,
    mass: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
    mixture_grad: bool,
) -> tuple[Tensor, ...]:
    mixture = checked("backward", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    batch = checked_moments("backward", BatchMoments(mass, batch_mean, batch_var), mixture)
    check_like("backward", "dy", dy, x)
    wanted = kept_shape(x, *mixture.mixing_weight.shape)
    require(
        "backward",
        tuple(responsibilities.shape) == wanted,
        f"responsibilities has shape {tuple(responsibilities.shape)}: expected {wanted}, "
        "what forward returned",
    )
    grads = _run(
        "backward",
        x,
        mixture,
        lambda: _launch("backward").backward(
            dy, x, responsibilities, batch, mixture, weight, bias, eps=eps,
            mixing_scale=mixing_scale, responsibility_grad=responsibility_grad,
            mixture_grad=mixture_grad,
        ),
    )  # fmt: skip
    dmixture = grads.mixture or (t.new_empty(0) for t in mixture)
    return (grads.x, grads.weight, grads.bias, *dmixture)


def _normalize(
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    mass: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
) -> Tensor:
    mixture = checked("normalize", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    batch = checked_moments("normalize", BatchMoments(mass, batch_mean, batch_var), mixture)
    y = _run(
        "normalize",
        x,
        mixture,
        lambda: _launch("forward").normalize(
            x, mixture, batch, weight, bias, eps=eps, mixing_scale=mixing_scale
        ),
    )
    return cast(Tensor, y)


def _backward_sums(
    dy: Tensor,
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    mass: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    mixture = checked("backward_sums", x, Mixture(mixing_weight, mean, var), eps)
    batch = checked_moments("backward_sums", BatchMoments(mass, batch_mean, batch_var), mixture)
    check_like("backward_sums", "dy", dy, x)
    return _run(
        "backward_sums",
        x,
        mixture,
        lambda: tuple(_launch("backward").backward_sums(dy, x, mixture, batch, eps=eps)),
    )


def _backward_apply(
    dy: Tensor,
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    mass: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    h1: Tensor,
    h2: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> tuple[Tensor, ...]:
    mixture = checked("backward_apply", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    batch = checked_moments("backward_apply", BatchMoments(mass, batch_mean, batch_var), mixture)
    check_like("backward_apply", "dy", dy, x)
    for name, found in (("h1", h1), ("h2", h2)):
        check_like("backward_apply", name, found, mixture.mean)
    grads = _run(
        "backward_apply",
        x,
        mixture,
        lambda: _launch("backward").backward_apply(
            dy, x, mixture, batch, GradientSums(h1, h2), weight, bias, eps=eps,
            mixing_scale=mixing_scale, responsibility_grad=responsibility_grad,
        ),
    )  # fmt: skip
    return (grads.x, grads.weight, grads.bias)


def _evaluate(
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
) -> Tensor:
    mixture = checked("evaluate", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    y = _run(
        "evaluate",
        x,
        mixture,
        lambda: _launch("evaluate").evaluate(
            x, mixture, weight, bias, eps=eps, mixing_scale=mixing_scale
        ),
    )
    return cast(Tensor, y)


def _evaluate_backward(
    dy: Tensor,
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> tuple[Tensor, ...]:
    mixture = checked("evaluate_backward", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    check_like("evaluate_backward", "dy", dy, x)
    grads = _run(
        "evaluate_backward",
        x,
        mixture,
        lambda: _launch("evaluate").evaluate_backward(
            dy, x, mixture, weight, bias, eps=eps, mixing_scale=mixing_scale,
            responsibility_grad=responsibility_grad,
        ),
    )  # fmt: skip
    return (grads.x, grads.weight, grads.bias)


def _update_running(
    running_weight: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    mass: Tensor,
    mean: Tensor,
    var: Tensor,
    count: int,
    momentum: float,
    factor: Tensor | None,
) -> Tensor:
    running = Mixture(running_weight, running_mean, running_var)
    moments = BatchMoments(mass, mean, var)
    check_mixture("update_running", running)
    moments = checked_moments("update_running", moments, running)
    require("update_running", count > 0, f"count is {count}: expected more than 0")
    with torch.cuda.device_of(running_mean):
        finite = _launch("running").update_running(
            running, moments, count, momentum if factor is None else factor
        )
    return cast(Tensor, finite)


_BODIES: dict[str, Callable[..., Any]] = {
    "moments": _moments,
    "forward": _forward,
    "backward": _backward,
    "normalize": _normalize,
    "backward_sums": _backward_sums,
    "backward_apply": _backward_apply,
    "evaluate": _evaluate,
    "evaluate_backward": _evaluate_backward,
    "update_running": _update_running,
}

_FAKES = fake.operators(kept_shape)
for _name, _body in _BODIES.items():
    _qualified = f"mixnorm::triton_{_name}"
    torch.library.define(_qualified, _SCHEMAS[_name], tags=(torch.Tag.pt2_compliant_tag,))
    # On CPU tensors under Triton's interpreter alone, which `backend.py` sees to.
    torch.library.impl(_qualified, ("cpu", "cuda"), _body)
    torch.library.register_fake(_qualified, _FAKES[_name])
