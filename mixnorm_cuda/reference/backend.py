"""The reference as a backend: public shapes and dtypes in, public shapes and dtypes out."""

import torch
from torch import Tensor

from mixnorm_cuda.checks import statistics_dtype
from mixnorm_cuda.reference.backward import affine_gradients, backward_apply, backward_sums
from mixnorm_cuda.reference.layout import grouped, ungrouped
from mixnorm_cuda.reference.moments import em_step, moments
from mixnorm_cuda.reference.normalize import normalize
from mixnorm_cuda.reference.responsibilities import responsibilities
from mixnorm_cuda.reference.running import update_running
from mixnorm_cuda.types import BatchMoments, Forward, Gradients, GradientSums, Mixture


class ReferenceBackend:
    """Plain PyTorch, differentiable; serves every input on every device.

    Given responsibilities are ``[N, G, K, L]``, which is also the layout of those it returns.
    """

    name = "reference"

    def missing(self) -> str | None:
        """Never missing."""
        return None

    def refuses(
        self, x: Tensor, num_components: int, groups: int, responsibilities_given: bool
    ) -> str | None:
        """Refuses nothing."""
        return None

    def forward(
        self,
        x: Tensor,
        mixture: Mixture,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        em_iters: int,
        mixing_scale: bool,
    ) -> Forward:
        """Training: EM steps, responsibilities, moments, output."""
        xg = _activations(x, mixture)
        shift = _shift(xg)
        xg = xg - shift
        theta = _shifted(mixture, -shift)
        for _ in range(em_iters):
            nu = responsibilities(xg, theta, eps)
            theta = em_step(moments(xg, nu, theta.mean), _positions(xg))
        nu = responsibilities(xg, theta, eps) if given is None else given
        batch = moments(xg, nu, theta.mean)
        y = normalize(
            xg, nu, batch.mean, batch.var, theta.mixing_weight, weight, bias, eps, mixing_scale
        )
        return Forward(
            ungrouped(y, x),
            batch._replace(mean=batch.mean + shift.flatten()),
            _shifted(theta, shift) if em_iters else Mixture(*(t.clone() for t in mixture)),
            nu,
        )

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        nu: Tensor,
        moments: BatchMoments,
        mixture: Mixture,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        eps: float,
        mixing_scale: bool,
        responsibility_grad: bool,
        given: bool,
        mixture_grad: bool,
    ) -> Gradients:
        """Gradients of `forward`, from what it returned."""
        xg, dyg = _activations(x, mixture), _activations(dy, mixture)
        sums = backward_sums(dyg, xg, nu, moments.mean)
        dx, dnu, dmixture = backward_apply(
            dyg,
            xg,
            nu,
            moments,
            mixture,
            weight,
            bias,
            sums,
            eps=eps,
            mixing_scale=mixing_scale,
            responsibility_grad=responsibility_grad,
            given=given,
            mixture_grad=mixture_grad,
        )
        affine = affine_gradients(sums, moments.var, mixture.mixing_weight, eps, mixing_scale)
        return Gradients(ungrouped(dx, x), *affine, dnu, dmixture)

    def evaluate(
        self,
        x: Tensor,
        mixture: Mixture,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        mixing_scale: bool,
    ) -> Tensor:
        """Eval: the mixture's own mean and variance in place of the batch's."""
        return self.normalize(
            x,
            mixture,
            _constants(mixture),
            weight,
            bias,
            given,
            eps=eps,
            mixing_scale=mixing_scale,
        )

    def evaluate_backward(
        self,
        dy: Tensor,
        x: Tensor,
        mixture: Mixture,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        mixing_scale: bool,
        responsibility_grad: bool,
    ) -> Gradients:
        """Gradients of `evaluate` for the input, the affine pairs and given responsibilities."""
        xg, dyg = _activations(x, mixture), _activations(dy, mixture)
        nu = _differentiable(xg, mixture, given, eps, responsibility_grad)
        constants = _constants(mixture)
        dx, dnu, _ = backward_apply(
            dyg,
            xg,
            nu,
            constants,
            mixture,
            weight,
            bias,
            None,
            eps=eps,
            mixing_scale=mixing_scale,
            responsibility_grad=responsibility_grad,
            given=given is not None,
        )
        sums = backward_sums(dyg, xg, nu, constants.mean)
        affine = affine_gradients(sums, constants.var, mixture.mixing_weight, eps, mixing_scale)
        return Gradients(ungrouped(dx, x), *affine, dnu)

    def moments(
        self, x: Tensor, mixture: Mixture, given: Tensor | None = None, *, eps: float
    ) -> BatchMoments:
        """The weighted moments: what an EM step takes its new mixture from."""
        xg = _activations(x, mixture)
        shift = _shift(xg)
        xg, theta = xg - shift, _shifted(mixture, -shift)
        nu = responsibilities(xg, theta, eps) if given is None else given
        batch = moments(xg, nu, theta.mean)
        return batch._replace(mean=batch.mean + shift.flatten())

    def normalize(
        self,
        x: Tensor,
        mixture: Mixture,
        moments: BatchMoments,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        mixing_scale: bool,
    ) -> Tensor:
        """The output under ``moments``, which may be of more than ``x``."""
        xg = _activations(x, mixture)
        nu = responsibilities(xg, mixture, eps) if given is None else given
        y = normalize(
            xg,
            nu,
            moments.mean,
            moments.var,
            mixture.mixing_weight,
            weight,
            bias,
            eps,
            mixing_scale,
        )
        return ungrouped(y, x)

    def backward_sums(
        self,
        dy: Tensor,
        x: Tensor,
        mixture: Mixture,
        moments: BatchMoments,
        given: Tensor | None = None,
        *,
        eps: float,
    ) -> GradientSums:
        """H1 and H2 of this ``x`` under ``moments``, which may be of more."""
        xg = _activations(x, mixture)
        nu = responsibilities(xg, mixture, eps) if given is None else given
        return backward_sums(_activations(dy, mixture), xg, nu, moments.mean)

    def backward_apply(
        self,
        dy: Tensor,
        x: Tensor,
        mixture: Mixture,
        moments: BatchMoments,
        sums: GradientSums,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        mixing_scale: bool,
        responsibility_grad: bool,
    ) -> Gradients:
        """The gradients that go with ``sums`` over all that ``moments`` are of."""
        xg = _activations(x, mixture)
        nu = responsibilities(xg, mixture, eps) if given is None else given
        dx, dnu, _ = backward_apply(
            _activations(dy, mixture),
            xg,
            nu,
            moments,
            mixture,
            weight,
            bias,
            sums,
            eps=eps,
            mixing_scale=mixing_scale,
            responsibility_grad=responsibility_grad,
            given=given is not None,
        )
        affine = affine_gradients(sums, moments.var, mixture.mixing_weight, eps, mixing_scale)
        return Gradients(ungrouped(dx, x), *affine, dnu)

    def update_running(
        self,
        running: Mixture,
        moments: BatchMoments,
        count: int | Tensor,
        factor: float | Tensor,
    ) -> Tensor:
        """Move ``running`` in place; returns whether the moments were finite."""
        return update_running(running, moments, count, factor)

    def responsibilities(self, x: Tensor, mixture: Mixture, *, eps: float) -> Tensor:
        """ν as ``[N, G, K, L]``."""
        return responsibilities(_activations(x, mixture), mixture, eps)

    def differentiable_state(
        self,
        x: Tensor,
        mixture: Mixture,
        given: Tensor | None,
        *,
        eps: float,
        responsibility_grad: bool,
    ) -> tuple[Tensor, BatchMoments]:
        """ν and the moments as differentiable functions of x, for second derivatives."""
        xg = _activations(x, mixture)
        shift = _shift(xg)
        xg, theta = xg - shift, _shifted(mixture, -shift)
        nu = _differentiable(xg, theta, given, eps, responsibility_grad)
        batch = moments(xg, nu, theta.mean)
        return nu, batch._replace(mean=batch.mean + shift.flatten())

    def differentiable_forward(
        self,
        x: Tensor,
        mixture: Mixture,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        em_iters: int,
        mixing_scale: bool,
        responsibility_grad: bool,
    ) -> tuple[Tensor, BatchMoments]:
        """y as a differentiable function of its arguments, and the moments as constants.

        No gradient flows through the EM steps.
        """
        for _ in range(em_iters):
            step = self.moments(x.detach(), mixture.detach(), eps=eps)
            mixture = em_step(step, x.numel() // x.shape[1])
        nu, batch = self.differentiable_state(
            x, mixture, given, eps=eps, responsibility_grad=responsibility_grad
        )
        y = self.normalize(x, mixture, batch, weight, bias, nu, eps=eps, mixing_scale=mixing_scale)
        return y, BatchMoments(*(t.detach() for t in batch))


def _activations(x: Tensor, mixture: Mixture) -> Tensor:
    return grouped(x.to(statistics_dtype(x.dtype)), mixture.mixing_weight.shape[0])


def _differentiable(
    xg: Tensor, mixture: Mixture, given: Tensor | None, eps: float, responsibility_grad: bool
) -> Tensor:
    """ν for a second derivative: held constant there too unless ``responsibility_grad``."""
    if given is not None:
        return given
    nu = responsibilities(xg, mixture, eps)
    return nu if responsibility_grad else nu.detach()


def _constants(mixture: Mixture) -> BatchMoments:
    """The mixture's own mean and variance in the place of a batch's."""
    return BatchMoments(torch.ones_like(mixture.mixing_weight), mixture.mean, mixture.var)


def _positions(xg: Tensor) -> int:
    return xg.shape[0] * xg.shape[3]


def _shift(xg: Tensor) -> Tensor:
    """Per-channel mean: sums are taken about it, so a large mean costs no digits of the variance.

    A constant: the output does not depend on it, and neither do the gradients.
    """
    return xg.detach().sum(dim=(0, 3)).unsqueeze(-1) / max(_positions(xg), 1)


def _shifted(mixture: Mixture, shift: Tensor) -> Mixture:
    return mixture._replace(mean=mixture.mean + shift.flatten())
