"""The layers: parameters, estimators and checkpoints."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from mixnorm_cuda import checks, dispatch
from mixnorm_cuda.distributed import Processes, joined_count
from mixnorm_cuda.estimation import (
    batch_moments,
    collapse_affine,
    em,
    expand_affine,
    initial_mixture,
    match_components,
    recomputation,
    seed_mixture,
    starting_mixture,
)
from mixnorm_cuda.functional import normalize_checked, training_step
from mixnorm_cuda.modules.batch_norm import batch_norm_entries, describes_data
from mixnorm_cuda.modules.documentation import documented
from mixnorm_cuda.modules.freezing import Freezable
from mixnorm_cuda.modules.running import RunningStatistics
from mixnorm_cuda.modules.summary import summarize
from mixnorm_cuda.types import BatchMoments, Mixture, Step

Affine = tuple[Tensor | None, Tensor | None]
"""γ and β."""

ESTIMATORS = ("online", "batch")
AFFINE_INITS = ("ones", "batchnorm")


class MixtureNormBase(Freezable, RunningStatistics):
    """What `MixtureNorm1d`, `MixtureNorm2d` and `MixtureNorm3d` share; accepts any rank."""

    # 1 and 2 are BatchNorm's versions, whose checkpoints load too.
    _version = 3

    num_features: int
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        num_components: int = 3,
        groups: int = 1,
        estimator: str = "online",
        em_iters: int | None = None,
        mixing_scale: bool = True,
        component_affine: bool = False,
        affine_init: str = "ones",
        responsibility_grad: bool = True,
        bias: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_features < 0:
            raise ValueError(f"num_features={num_features}: expected 0 or more channels")
        checks.check_eps(eps)
        checks.check_momentum(momentum)
        checks.check_components(num_components)
        checks.check_groups(groups, num_features)
        checks.check_choice("estimator", estimator, ESTIMATORS)
        checks.check_choice("affine_init", affine_init, AFFINE_INITS)
        if em_iters is not None:
            checks.check_em_iters(em_iters)
        required = {
            "affine": affine,
            "component_affine": component_affine,
            "bias": bias,
            "track_running_stats": track_running_stats,
        }
        if affine_init == "batchnorm" and not all(required.values()):
            absent = ", ".join(f"{name}={value}" for name, value in required.items() if not value)
            raise ValueError(f"affine_init='batchnorm' with {absent}: expected True")
        dispatch.check_name(backend)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.num_components = num_components
        self.groups = groups
        self.estimator = estimator
        self.em_iters = em_iters
        self.mixing_scale = mixing_scale
        self.component_affine = component_affine
        self.affine_init = affine_init
        self.responsibility_grad = responsibility_grad
        self.backend = backend
        self._allocate(affine, affine and bias, device, dtype)
        self.reset_parameters()

    def _allocate(
        self,
        weight: bool,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        channels, components = self.num_features, self.num_components
        affine_shape = (components, channels) if self.component_affine else (channels,)

        def parameter(present: bool) -> nn.Parameter | None:
            empty = torch.empty(affine_shape, device=device, dtype=dtype)
            return nn.Parameter(empty) if present else None

        self.register_parameter("weight", parameter(weight))
        self.register_parameter("bias", parameter(bias))
        self._allocate_running(device, dtype)

    def reset_parameters(self) -> None:
        """γ = 1, β = 0, and `reset_running_stats`; with ``affine_init="batchnorm"`` γ = 1/√K,
        which makes the layer BN under the initial running statistics.
        """
        self.reset_running_stats()
        if self.weight is not None:
            start = 1.0
            if self.affine_init == "batchnorm" and self.mixing_scale:
                start = self.num_components**-0.5
            nn.init.constant_(self.weight, start)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, num_components={self.num_components}, groups={self.groups}, "
            f"eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"component_affine={self.component_affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}, estimator={self.estimator!r}, "
            f"em_iters={self._em_iters()}, mixing_scale={self.mixing_scale}"
        )

    def summary(self) -> dict[str, float]:
        """Numbers for a log, such as TensorBoard's ``add_scalars``; reads them from the device.

        ``weight/k``: mixing weight of component k, mean over the groups. ``effective_components``:
        exp of the mixing weights' entropy, from 1 to K, mean over the groups, and its ``/least``.
        ``empty_components``: how many, in all groups, have a mixing weight below 1e-3.
        ``batches_tracked``.

        Raises:
            ValueError: the layer keeps no running statistics.
        """
        return summarize(self)

    def forward(self, x: Tensor, responsibilities: Tensor | None = None) -> Tensor:
        """Normalize ``x`` [N, C, *S]; the result has its shape, dtype and memory format.

        ``responsibilities`` ([N, K] or [N, K, *S]) replace the posterior when given.

        Raises:
            ValueError: wrong rank or channel count; one value per channel in training.
            TypeError: a dtype that does not fit the parameters or buffers.
        """
        self._check_input(x)
        running, affine = self._running(), self._affine()
        if responsibilities is None and running is not None and self._steps_on(x):
            try:
                y = self._step(x, running, affine)
            except ValueError:
                self._check_parameters(x, running, affine)
                raise
            if y is not None:
                return y
        self._check_parameters(x, running, affine)
        if running is not None and not self.training:
            return self._normalize(x, running, affine, responsibilities, training=False)[0]
        if not self.track_running_stats:
            running = None  # switched off after construction: as in BN, neither used nor changed
        processes = self._processes()
        if processes is None:
            checks.check_enough_values(x)
        if running is not None and recomputation.is_repetition():
            return self._repeat(x, running, responsibilities)
        watched = running is not None and not self._nothing(x) and recomputation.may_be_repeated()
        generator = recomputation.generator_state(x) if watched else None
        mixture, em_iters, first = self._estimate(x, running, responsibilities)
        if watched:
            drawn = self._seeds(x, running, responsibilities)
            step = recomputation.step_of(x, mixture, em_iters, generator if drawn else None)
        y, moments = self._normalize(
            x, mixture, affine, responsibilities, training=True, em_iters=em_iters
        )
        if running is not None and watched:
            recomputation.remember(running.mean, step, y)
        if self.training and running is not None and moments is not None and not self._nothing(x):
            if first:
                for buffer, seed in zip(running, mixture, strict=True):
                    buffer.copy_(seed)
            own = x.numel() // x.shape[1]
            count = own if processes is None else joined_count(moments)
            self._track(running, moments, count, outright=first)
        return y

    def _affine(self) -> Affine:
        # As in `_running`. A computed parameter (torch.nn.utils.parametrize) is not in the table.
        table = self._parameters
        if "weight" in table and "bias" in table:
            return table["weight"], table["bias"]
        return self.weight, self.bias

    def _check_parameters(self, x: Tensor, running: Mixture | None, affine: Affine) -> None:
        """Parameters and running statistics fit the checked ``x``."""
        if running is not None:
            checks.check_mixture(x, *running, prefix="running_")
        weight, bias = affine
        checks.check_affine("weight", weight, x, self.num_components)
        checks.check_affine("bias", bias, x, self.num_components)

    def _check_input(self, x: Tensor) -> None:
        checks.check_input(x)
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"input has shape {tuple(x.shape)} with {x.shape[1]} channels: expected "
                f"num_features={self.num_features}"
            )

    def _processes(self) -> Processes | None:
        """The processes whose batches are one; None: only this one's."""
        return None

    def _nothing(self, x: Tensor) -> bool:
        """Whether the batch is known to be empty: those of other processes may not be."""
        return x.numel() == 0 and self._processes() is None

    def _em_iters(self) -> int:
        if self.em_iters is None:
            return 2 if self.estimator == "batch" else 0
        return self.em_iters

    def _normalize(
        self,
        x: Tensor,
        mixture: Mixture,
        affine: Affine,
        responsibilities: Tensor | None,
        training: bool,
        em_iters: int = 0,
    ) -> tuple[Tensor, BatchMoments | None]:
        return normalize_checked(
            x,
            mixture,
            *affine,
            training=training,
            eps=self.eps,
            em_iters=em_iters,
            mixing_scale=self.mixing_scale,
            responsibility_grad=self.responsibility_grad,
            responsibilities=responsibilities,
            backend=self.backend,
        )

    def _steps_on(self, x: Tensor) -> bool:
        """Whether this is a training step that goes on from the running statistics, once."""
        return (
            self.training
            and self.track_running_stats
            and self.estimator == "online"
            and self._processes() is None
            and x.numel() > x.shape[1]
            and (self.num_components == 1 or not self._awaits_seeding())
            and not recomputation.may_be_repeated()
            and not recomputation.is_repetition()
        )

    def _step(self, x: Tensor, running: Mixture, affine: Affine) -> Tensor | None:
        """y of such a step; None where it is not one operator.

        The operator checks its arguments: to check them here too would take longer than it does.
        """
        tracked = self._buffers["num_batches_tracked"]
        if tracked is None:
            return None
        em_iters = self._em_iters() if self.num_components > 1 else 0
        options = Step(
            self.momentum, self.eps, em_iters, self.mixing_scale, self.responsibility_grad
        )
        y = training_step(x, running, tracked, *affine, options, self.backend)
        if y is not None:
            self._mark_seeded()
        return y

    def _estimate(
        self, x: Tensor, running: Mixture | None, responsibilities: Tensor | None
    ) -> tuple[Mixture, int, bool]:
        """θ₀ of a training step, the EM steps left to the forward pass, whether it is seeded.

        Seeded: the running statistics describe nothing yet and are to be set from this batch.
        """
        em_iters = self._em_iters()
        processes = self._processes()
        first = running is not None and self.num_components > 1 and self._awaits_seeding()
        if not self._seeds(x, running, responsibilities):
            if running is None:
                return initial_mixture(x, self.num_components, self.groups), 0, first
            fixed = responsibilities is not None or self.num_components == 1 or self._nothing(x)
            return starting_mixture(running), 0 if fixed else em_iters, first
        mixture = seed_mixture(x, self.num_components, self.groups, self.eps, processes)
        if self.estimator == "batch" or (first and self.affine_init == "batchnorm"):
            mixture = em(
                x, mixture, iters=em_iters, eps=self.eps, backend=self.backend, processes=processes
            )
            em_iters = 0
        if running is not None and not first:
            mixture = match_components(mixture, running, self.eps)
        if running is not None and first and self.affine_init == "batchnorm":
            self._start_as_batch_norm(x, running, mixture)
        return mixture, em_iters, first

    def _seeds(self, x: Tensor, running: Mixture | None, responsibilities: Tensor | None) -> bool:
        """Whether a training step draws a new mixture from ``x``."""
        if self._nothing(x) or responsibilities is not None or self.num_components == 1:
            return False
        return self.estimator == "batch" or running is None or self._awaits_seeding()

    def _repeat(self, x: Tensor, running: Mixture, responsibilities: Tensor | None) -> Tensor:
        """A step that activation checkpointing computes again: as the first time, untracked."""
        step = recomputation.recall(running.mean, x)
        if step is None:
            mixture, em_iters = self._estimate(x, running, responsibilities)[:2]
        else:
            if step.generator is not None:
                processes = self._processes()
                seed_mixture(x, self.num_components, self.groups, self.eps, processes)
            mixture, em_iters = step.mixture, step.em_iters
        affine = self._affine()
        y, _ = self._normalize(
            x, mixture, affine, responsibilities, training=True, em_iters=em_iters
        )
        if step is not None:
            recomputation.remember_again(running.mean, step, y)
        return y

    @torch.no_grad()
    def _start_as_batch_norm(self, x: Tensor, running: Mixture, mixture: Mixture) -> None:
        """Carry γ and β from BN under ``running`` over to BN under this batch's statistics."""
        if self.weight is None or self.bias is None:
            return
        moments = batch_moments(x, mixture, self.eps, self.backend, self._processes())
        of_batch = Mixture(mixture.mixing_weight, moments.mean, moments.var)
        eps, scale = self.eps, self.mixing_scale
        single = collapse_affine(self.weight, self.bias, running, eps=eps, mixing_scale=scale)
        pairs = expand_affine(*single, of_batch, eps=eps, mixing_scale=scale, mass=moments.mass)
        finite = torch.stack([pair.isfinite().all() for pair in pairs]).all()
        self.weight.copy_(torch.where(finite, pairs[0], self.weight))
        self.bias.copy_(torch.where(finite, pairs[1], self.bias))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *args: Any,
    ) -> None:
        version = local_metadata.get("version") or 0
        if version > self._version:
            warnings.warn(
                f"{prefix or 'the layer'}: the checkpoint's version {version} is newer than this "
                f"layer's {self._version}; entries that are unknown here are reported as usual",
                stacklevel=2,
            )
        if prefix + "running_mean" in state_dict:
            self._seeded = describes_data(state_dict, prefix)
        state_dict.update(batch_norm_entries(self, state_dict, prefix))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        self._note_counter()


class MixtureNorm1d(MixtureNormBase):
    __doc__ = documented("[N, C] or [N, C, L]", "BatchNorm1d")

    def _check_input(self, x: Tensor) -> None:
        checks.check_rank(x, (2, 3))
        super()._check_input(x)


class MixtureNorm2d(MixtureNormBase):
    __doc__ = documented("[N, C, H, W]", "BatchNorm2d")

    def _check_input(self, x: Tensor) -> None:
        checks.check_rank(x, (4,))
        super()._check_input(x)


class MixtureNorm3d(MixtureNormBase):
    __doc__ = documented("[N, C, D, H, W]", "BatchNorm3d")

    def _check_input(self, x: Tensor) -> None:
        checks.check_rank(x, (5,))
        super()._check_input(x)
