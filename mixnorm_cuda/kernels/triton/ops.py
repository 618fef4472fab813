"""The raw operators ``mixnorm::triton_*``: schemas, argument checks, fake implementations.

torch.compile keeps them as opaque calls, so there is no graph break; CUDA graphs capture them,
since nothing in them waits for the device. Each runs on the device of ``x``, on its current stream.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar, cast

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import autotune
from mixnorm_cuda.kernels.triton.geometry import is_channels_last
from mixnorm_cuda.types import BatchMoments, Forward, Gradients, Mixture

MAX_COMPONENTS = 16
Result = TypeVar("Result")

_THETA = "Tensor mixing_weight, Tensor mean, Tensor var"
_MOMENTS = "Tensor mass, Tensor batch_mean, Tensor batch_var"
_AFFINE = "Tensor? weight, Tensor? bias"
_SCHEMAS = {
    "triton_moments": f"(Tensor x, {_THETA}, float eps) -> (Tensor, Tensor, Tensor)",
    "triton_forward": (
        f"(Tensor x, {_THETA}, {_AFFINE}, float eps, int em_iters, bool mixing_scale) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "triton_backward": (
        f"(Tensor dy, Tensor x, Tensor responsibilities, {_MOMENTS}, {_THETA}, {_AFFINE}, "
        "float eps, bool mixing_scale, bool responsibility_grad, bool mixture_grad) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "triton_evaluate": f"(Tensor x, {_THETA}, {_AFFINE}, float eps, bool mixing_scale) -> Tensor",
    "triton_evaluate_backward": (
        f"(Tensor dy, Tensor x, {_THETA}, {_AFFINE}, float eps, bool mixing_scale, "
        "bool responsibility_grad) -> (Tensor, Tensor, Tensor)"
    ),
    "triton_update_running": (
        "(Tensor(a!) running_weight, Tensor(b!) running_mean, Tensor(c!) running_var, "
        "Tensor mass, Tensor mean, Tensor var, int count, float momentum, Tensor? factor) -> Tensor"
    ),
}


def moments(x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments:
    """Mass [G, K], mean [K, C] and biased variance [K, C] of ``x`` [N, C, *S] under ``mixture``.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    return BatchMoments(*torch.ops.mixnorm.triton_moments(x, *mixture, eps))


def forward(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    em_iters: int,
    mixing_scale: bool,
) -> Forward:
    """Training forward of ``x`` [N, C, *S]: EM steps, responsibilities, moments, output.

    ``weight`` and ``bias`` are None, [C] or [K, C]. ``responsibilities`` of the result is [G, K, M]
    where `backward` reads it, else empty. y has the memory format of a contiguous or channels-last
    ``x`` and is contiguous otherwise.

    Raises:
        ValueError: an argument has a wrong shape or dtype, ``eps`` is not positive or ``em_iters``
            is negative.
    """
    y, mass, mean, var, nu, *final = torch.ops.mixnorm.triton_forward(
        x, *mixture, weight, bias, eps, em_iters, mixing_scale
    )
    return Forward(y, BatchMoments(mass, mean, var), Mixture(*final), nu)


def backward(
    dy: Tensor,
    x: Tensor,
    responsibilities: Tensor,
    moments: BatchMoments,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
    mixture_grad: bool,
) -> Gradients:
    """Gradients of `forward`; ``weight`` and ``bias`` of the result have the parameter's shape,
    [K, C] where it is None.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    dx, dweight, dbias, *dmixture = torch.ops.mixnorm.triton_backward(
        dy, x, responsibilities, *moments, *mixture, weight, bias,
        eps, mixing_scale, responsibility_grad, mixture_grad,
    )  # fmt: skip
    return Gradients(dx, dweight, dbias, mixture=Mixture(*dmixture) if mixture_grad else None)


def evaluate(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
) -> Tensor:
    """Eval output of ``x`` [N, C, *S]: the mixture's own mean and variance stand for m and q.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    y = torch.ops.mixnorm.triton_evaluate(x, *mixture, weight, bias, eps, mixing_scale)
    return cast(Tensor, y)


def evaluate_backward(
    dy: Tensor,
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> Gradients:
    """Gradients of `evaluate` for x, and for weight and bias as `backward`.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    return Gradients(
        *torch.ops.mixnorm.triton_evaluate_backward(
            dy, x, *mixture, weight, bias, eps, mixing_scale, responsibility_grad
        )
    )


def update_running(
    running: Mixture, moments: BatchMoments, count: int, factor: float | Tensor
) -> Tensor:
    """Move ``running`` in place towards ``moments`` of ``count`` positions with weight ``factor``.

    Returns whether all moments were finite (else nothing changes), a 0-dim bool tensor.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``count`` is not positive.
    """
    momentum, tensor = (0.0, factor) if isinstance(factor, Tensor) else (factor, None)
    finite = torch.ops.mixnorm.triton_update_running(*running, *moments, count, momentum, tensor)
    return cast(Tensor, finite)


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
    mixture = _checked("moments", x, Mixture(mixing_weight, mean, var), eps)
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
    mixture = _checked("forward", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    _require("forward", em_iters >= 0, f"em_iters is {em_iters}: expected 0 or more")
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
    mixture = _checked("backward", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    batch = BatchMoments(mass, batch_mean, batch_var)
    _check_like("backward", "dy", dy, x)
    for name, found, like in zip(batch._fields, batch, mixture, strict=True):
        _check_like("backward", name, found, like)
    wanted = _kept_shape(x, mixture)
    _require(
        "backward",
        tuple(responsibilities.shape) == wanted,
        f"responsibilities has shape {tuple(responsibilities.shape)}: expected {wanted}, "
        "what forward returned",
    )
    batch = BatchMoments(*(t.contiguous() for t in batch))
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
    mixture = _checked("evaluate", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    y = _run(
        "evaluate",
        x,
        mixture,
        lambda: _launch("forward").evaluate(
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
    mixture = _checked("evaluate_backward", x, Mixture(mixing_weight, mean, var), eps, weight, bias)
    _check_like("evaluate_backward", "dy", dy, x)
    grads = _run(
        "evaluate_backward",
        x,
        mixture,
        lambda: _launch("backward").evaluate_backward(
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
    _check_mixture("update_running", running)
    for name, found, like in zip(moments._fields, moments, running, strict=True):
        _check_like("update_running", name, found, like)
    _require("update_running", count > 0, f"count is {count}: expected more than 0")
    with torch.cuda.device_of(running_mean):
        finite = _launch("running").update_running(
            running, moments, count, momentum if factor is None else factor
        )
    return cast(Tensor, finite)


def _fake_moments(
    x: Tensor, mixing_weight: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _new(mixing_weight), _new(mean), _new(var)


def _fake_forward(
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
    theta = Mixture(mixing_weight, mean, var)
    kept = mean.new_empty(_kept_shape(x, theta))
    return (_output(x), *map(_new, theta), kept, *map(_new, theta))


def _fake_backward(
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
    theta = (mixing_weight, mean, var)
    dmixture = (_new(t) if mixture_grad else t.new_empty(0) for t in theta)
    return (_output(x), _gradient(weight, mean), _gradient(bias, mean), *dmixture)


def _fake_evaluate(
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
) -> Tensor:
    return _output(x)


def _fake_evaluate_backward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    return _output(x), _gradient(weight, mean), _gradient(bias, mean)


def _fake_update_running(
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
    return mass.new_empty((), dtype=torch.bool)


def _kept_shape(x: Tensor, mixture: Mixture) -> tuple[int, ...]:
    """ν is kept for the backward where it is small beside x: for one mixture of many channels."""
    groups, components = mixture.mixing_weight.shape
    if groups == 1 and components > 1 and x.shape[1] > 1 and x.numel() > 0:
        return (1, components, x.numel() // x.shape[1])
    return (0,)


def _output(x: Tensor) -> Tensor:
    """In the memory format of a dense ``x``, contiguous for any other."""
    if x.is_contiguous() or is_channels_last(x):
        return torch.empty_like(x)
    return x.new_empty(x.shape)


def _gradient(parameter: Tensor | None, mean: Tensor) -> Tensor:
    return mean.new_empty(mean.shape if parameter is None else parameter.shape)


def _new(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _require(operator: str, condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"mixnorm::triton_{operator}: {message}")


def _check_mixture(operator: str, mixture: Mixture) -> None:
    mixing_weight, mean, var = mixture
    _require(
        operator,
        mixing_weight.dim() == 2 and 1 <= mixing_weight.shape[1] <= MAX_COMPONENTS,
        f"mixing_weight has shape {tuple(mixing_weight.shape)}: expected [G, K] with K from 1 to "
        f"{MAX_COMPONENTS}",
    )
    groups, components = mixing_weight.shape
    _require(
        operator,
        mean.dim() == 2 and mean.shape[0] == components,
        f"mean has shape {tuple(mean.shape)}: expected [{components}, C]",
    )
    _require(
        operator,
        groups > 0 and mean.shape[1] % groups == 0,
        f"mixing_weight has G = {groups}: expected a divisor of the {mean.shape[1]} channels",
    )
    _check_like(operator, "var", var, mean)
    for name, t in mixture._asdict().items():
        _require(
            operator,
            t.dtype == mean.dtype and t.dtype in (torch.float32, torch.float64),
            f"{name} has dtype {t.dtype}: expected float32, or float64 for all of float64",
        )
        _require(
            operator,
            t.device == mean.device and t.is_contiguous(),
            f"{name} is on {t.device}, strides {t.stride()}: expected {mean.device}, contiguous",
        )


def _check_like(operator: str, name: str, found: Tensor, like: Tensor) -> None:
    _require(
        operator,
        found.shape == like.shape,
        f"{name} has shape {tuple(found.shape)}: expected {tuple(like.shape)}",
    )
    _require(
        operator,
        found.dtype == like.dtype and found.device == like.device,
        f"{name} has dtype {found.dtype} on {found.device}: expected {like.dtype} on {like.device}",
    )


def _checked(
    operator: str,
    x: Tensor,
    mixture: Mixture,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Mixture:
    """``mixture``, contiguous, once every argument fits the others."""
    mixture = Mixture(*(t.contiguous() for t in mixture))
    _require(operator, x.dim() >= 2, f"x has shape {tuple(x.shape)}: expected [N, C, *S]")
    statistics = torch.float64 if x.dtype == torch.float64 else torch.float32
    _require(operator, x.is_floating_point(), f"x has dtype {x.dtype}: expected a floating dtype")
    _require(
        operator,
        mixture.mean.dim() == 2 and mixture.mean.shape[1] == x.shape[1],
        f"mean has shape {tuple(mixture.mean.shape)}: expected [K, {x.shape[1]}]",
    )
    _check_mixture(operator, mixture)
    _require(
        operator,
        mixture.mean.dtype == statistics and mixture.mean.device == x.device,
        f"mean has dtype {mixture.mean.dtype} on {mixture.mean.device}: expected {statistics} on "
        f"{x.device}",
    )
    for name, t in (("weight", weight), ("bias", bias)):
        if t is None:
            continue
        _require(
            operator,
            t.shape in (mixture.mean.shape, mixture.mean.shape[1:]),
            f"{name} has shape {tuple(t.shape)}: expected {tuple(mixture.mean.shape)}, or "
            f"{tuple(mixture.mean.shape[1:])} shared by the components",
        )
        _require(
            operator,
            t.is_floating_point() and t.device == x.device,
            f"{name} has dtype {t.dtype} on {t.device}: expected a floating dtype on {x.device}",
        )
    _require(operator, eps > 0, f"eps is {eps}: expected a number above 0")
    return mixture


def _register() -> None:
    bodies = {
        "triton_moments": (_moments, _fake_moments),
        "triton_forward": (_forward, _fake_forward),
        "triton_backward": (_backward, _fake_backward),
        "triton_evaluate": (_evaluate, _fake_evaluate),
        "triton_evaluate_backward": (_evaluate_backward, _fake_evaluate_backward),
        "triton_update_running": (_update_running, _fake_update_running),
    }
    for name, (body, fake) in bodies.items():
        qualified = f"mixnorm::{name}"
        torch.library.define(qualified, _SCHEMAS[name], tags=(torch.Tag.pt2_compliant_tag,))
        # On CPU tensors under Triton's interpreter alone, which `backend.py` sees to.
        torch.library.impl(qualified, ("cpu", "cuda"), body)
        torch.library.register_fake(qualified, fake)


_register()
