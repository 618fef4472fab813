"""Mixture normalization as functions: argument checks, then one autograd function.

Source of the method: M. M. Kalayeh and M. Shah, *Training Faster by Separating Modes of Variation
in Batch-normalized Models*, TPAMI 2019, arXiv 1806.02892.
"""

import torch
from torch import Tensor

from mixnorm_cuda import checks, dispatch
from mixnorm_cuda.autograd import normalize, normalize_batch, step
from mixnorm_cuda.estimation import (
    initial_mixture,
    recomputation,
    starting_mixture,
    update_running_statistics,
)
from mixnorm_cuda.tracing import traced
from mixnorm_cuda.types import BatchMoments, Mixture, Step

__all__ = ["BatchMoments", "mixture_norm", "mixture_normalize"]


def mixture_normalize(
    x: Tensor,
    mixing_weight: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = True,
    eps: float = 1e-5,
    em_iters: int = 0,
    mixing_scale: bool = True,
    responsibility_grad: bool = True,
    responsibilities: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, BatchMoments | None]:
    r"""Normalize ``x`` by a diagonal Gaussian mixture. Pure: no argument is changed.

    With positions i (one sample and one place in space), components k and the group g of channel
    c, the mixture θ = (λ, μ, σ²) gives the responsibilities

    .. math:: \nu_{ik} = \mathrm{softmax}_k\Big(\log\lambda_{gk} - \tfrac12 \sum_{c\in g}
              \Big[\frac{(x_{ic}-\mu_{kc})^2}{\sigma^2_{kc}+\epsilon}
              + \log(\sigma^2_{kc}+\epsilon)\Big]\Big),

    these the batch's moments S = Σ ν, m = Σ ν x / S, q = Σ ν (x − m)² / S, and the output is

    .. math:: y_{ic} = \sum_k \nu_{ik} \Big[\gamma_{kc}\,
              \frac{x_{ic}-m_{kc}}{\sqrt{q_{kc}+\epsilon}\,\sqrt{\tilde\lambda_{gk}}}
              + \beta_{kc}\Big], \qquad \tilde\lambda = \max(\lambda, 10^{-3}).

    K = 1 is Batch Normalization.

    Args:
        x: ``[N, C, *S]``, float32, float16, bfloat16 or float64, any strides.
        mixing_weight: λ, ``[G, K]``, rows summing to 1. G groups of C/G channels each have a
            mixture of their own: G = 1 is one joint mixture, G = C one per channel.
        mean: μ, ``[K, C]``.
        var: σ², ``[K, C]``. λ, μ and σ² are float32 (float64 for float64 ``x``). They are
            constants unless they require grad. None for all three is accepted with given
            responsibilities in training: then λ = 1/K.
        weight: γ, ``[C]`` shared by the components or ``[K, C]``; None is 1.
        bias: β, like ``weight``; None is 0. Both in the dtype of ``x`` or of the statistics.
        training: True: m and q are the batch's, under θ after ``em_iters`` EM steps.
            False: m and q are ``mean`` and ``var`` themselves.
        eps: ε > 0, added to variances everywhere (the covariance floor).
        em_iters: EM steps on this batch before the responsibilities are taken.
        mixing_scale: divide by √λ̃; False leaves it out.
        responsibility_grad: differentiate ν with respect to x and θ; False holds it constant.
        responsibilities: ν given by the caller, ``[N, K]`` or ``[N, K, *S]``, differentiable. With
            a gate and ``mixing_scale=False`` this is Mode Normalization (Deecke et al., ICLR
            2019); with one-hot rows, one normalization per known domain.
        backend: ``"auto"`` or the name of a backend.

    Returns:
        ``y`` in the shape, dtype and memory format of ``x``, and the batch's moments
        ``(mass [G, K], mean [K, C], var [K, C])`` (biased variance, no gradient); None in eval.

    Raises:
        ValueError: a shape, device or value does not fit; one value per channel in training;
            θ requires grad with ``em_iters`` > 0, since no gradient flows through EM.
        TypeError: a dtype does not fit.
        BackendUnavailableError: an explicit ``backend`` cannot serve the input.
    """
    checks.check_input(x)
    checks.check_eps(eps)
    checks.check_em_iters(em_iters)
    if mixing_weight is None or mean is None or var is None:
        mixture = _placeholder_mixture(x, (mixing_weight, mean, var), responsibilities, training)
    else:
        mixture = Mixture(mixing_weight, mean, var)
    checks.check_mixture(x, *mixture, prefix="")
    components = mixture.mean.shape[0]
    checks.check_affine("weight", weight, x, components)
    checks.check_affine("bias", bias, x, components)
    if responsibilities is not None and em_iters:
        raise ValueError(f"em_iters={em_iters}: expected 0 with given responsibilities")
    if training:
        checks.check_enough_values(x)
        _check_em_of_learned(mixture, em_iters)
    return normalize_checked(
        x, mixture, weight, bias, training=training, eps=eps, em_iters=em_iters,
        mixing_scale=mixing_scale, responsibility_grad=responsibility_grad,
        responsibilities=responsibilities, backend=backend,
    )  # fmt: skip


def normalize_checked(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    training: bool,
    eps: float,
    em_iters: int,
    mixing_scale: bool,
    responsibility_grad: bool,
    responsibilities: Tensor | None = None,
    backend: str,
) -> tuple[Tensor, BatchMoments | None]:
    """`mixture_normalize` for callers that have checked all but the responsibilities.

    Checks cost a small input as much as its kernels, so they are made once.
    """
    groups, components = mixture.mixing_weight.shape
    given = None
    if responsibilities is not None:
        checks.check_responsibilities(responsibilities, x, components)
        given = expanded_responsibilities(responsibilities, x, groups)
    served_by = dispatch.select(backend, x, components, groups, given is not None)
    if training:
        return normalize_batch(
            x, mixture, weight, bias, given, served_by, eps=eps, em_iters=em_iters,
            mixing_scale=mixing_scale, responsibility_grad=responsibility_grad,
        )  # fmt: skip
    y = normalize(
        x, mixture, weight, bias, given, served_by, eps=eps, mixing_scale=mixing_scale,
        responsibility_grad=responsibility_grad,
    )  # fmt: skip
    return y, None


def training_step(
    x: Tensor,
    running: Mixture,
    num_batches_tracked: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    options: Step,
    backend: str,
) -> Tensor | None:
    """y of a layer's training step, after which ``running`` and the counter have moved.

    None, and nothing changed, where the step is not one operator: its backend has none, torch
    traces, or ``running`` is learned. The operator checks its arguments (ValueError).
    """
    mixing_weight, mean, var = running
    if traced() or mixing_weight.requires_grad or mean.requires_grad or var.requires_grad:
        return None
    groups, components = mixing_weight.shape
    whole = dispatch.whole_step(dispatch.select(backend, x, components, groups))
    if whole is None:
        return None
    return step(x, running, num_batches_tracked, weight, bias, whole, options)


def mixture_norm(
    x: Tensor,
    running_weight: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    em_iters: int = 0,
    mixing_scale: bool = True,
    responsibility_grad: bool = True,
    backend: str = "auto",
) -> Tensor:
    r"""Mixture normalization with running statistics: the counterpart of ``F.batch_norm``.

    In training θ starts from the running statistics (then ``em_iters`` EM steps) and they are
    updated in place: with λ̂ = S/M, the variance q̂ = q·min(S/(S−1), 2) and f = ``momentum``,

    .. math:: \lambda' = (1-f)\lambda + f\hat\lambda, \quad \rho = f\hat\lambda/\lambda', \quad
              \mu' = \mu + \rho\,(m - \mu), \quad \sigma^{2\prime} = \sigma^2 +
              \rho\,(\hat q - \sigma^2).

    A batch whose moments are not finite, and an empty one, leaves them as they are. In eval the
    running statistics are both θ and the moments.

    Args:
        x: ``[N, C, *S]``, float32, float16, bfloat16 or float64.
        running_weight: λ, ``[G, K]``.
        running_mean: μ, ``[K, C]``.
        running_var: σ², ``[K, C]``. All three float32 (float64 for float64 ``x``).
        weight: γ, ``[C]`` or ``[K, C]``, or None.
        bias: β, likewise.
        training: use and track the batch's statistics.
        momentum: f in [0, 1], the weight of the batch in the running average.
        eps, em_iters, mixing_scale, responsibility_grad, backend: see `mixture_normalize`.

    Returns:
        ``y`` in the shape, dtype and memory format of ``x``.

    Raises:
        ValueError, TypeError, BackendUnavailableError: as `mixture_normalize`, before any running
            statistic changes.
    """
    checks.check_input(x)
    checks.check_eps(eps)
    checks.check_em_iters(em_iters)
    checks.check_momentum(momentum, or_none=False)
    running = Mixture(running_weight, running_mean, running_var)
    checks.check_mixture(x, *running, prefix="running_")
    components = running_mean.shape[0]
    checks.check_affine("weight", weight, x, components)
    checks.check_affine("bias", bias, x, components)
    mixture, repeated, step = running, False, None
    if training:
        checks.check_enough_values(x)
        _check_em_of_learned(running, em_iters)
        mixture, repeated = starting_mixture(running), recomputation.is_repetition()
        known = recomputation.recall(running_mean, x) if repeated else None
        if known is not None:
            mixture = known.mixture
        elif recomputation.may_be_repeated():
            step = recomputation.step_of(x, mixture, em_iters, None)
    y, moments = normalize_checked(
        x, mixture, weight, bias,
        training=training, eps=eps, em_iters=em_iters, mixing_scale=mixing_scale,
        responsibility_grad=responsibility_grad, backend=backend,
    )  # fmt: skip
    if step is not None:
        recomputation.remember(running_mean, step, y)
    if moments is not None and x.numel() > 0 and not repeated:
        update_running_statistics(running, moments, x.numel() // x.shape[1], momentum, backend)
    return y


def _check_em_of_learned(mixture: Mixture, em_iters: int) -> None:
    if em_iters and torch.is_grad_enabled() and any(t.requires_grad for t in mixture):
        raise ValueError(
            f"em_iters={em_iters}: expected 0 when mixing_weight, mean or var requires grad, "
            "since no gradient flows through EM steps"
        )


def _placeholder_mixture(
    x: Tensor,
    parts: tuple[Tensor | None, Tensor | None, Tensor | None],
    responsibilities: Tensor | None,
    training: bool,
) -> Mixture:
    """λ = 1/K, μ = 0, σ² = 1, for given responsibilities, which need no θ."""
    if responsibilities is None or not training or any(part is not None for part in parts):
        raise ValueError(
            "mixing_weight, mean and var: expected three tensors; None, for all of them, only in "
            "training with given responsibilities"
        )
    if responsibilities.dim() < 2 or responsibilities.shape[1] < 1:
        raise ValueError(
            f"responsibilities has shape {tuple(responsibilities.shape)}: expected [N, K] or "
            "[N, K, *S]"
        )
    return initial_mixture(x, responsibilities.shape[1], groups=1)


def expanded_responsibilities(responsibilities: Tensor, x: Tensor, groups: int) -> Tensor:
    """[N, K] or [N, K, *S] -> [N, G, K, L] in the statistics dtype, by differentiable views."""
    nu = responsibilities.to(checks.statistics_dtype(x.dtype))
    nu = nu.unsqueeze(2) if nu.dim() == 2 else nu.flatten(2)
    positions = x.shape[2:].numel()
    return nu.unsqueeze(1).expand(-1, groups, -1, positions)
