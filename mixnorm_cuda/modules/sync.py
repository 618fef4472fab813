"""Mixture normalization over several processes."""

from typing import Any

import torch
from torch import Tensor, distributed

from mixnorm_cuda import checks, dispatch
from mixnorm_cuda.autograd import SyncMixtureNormFunction
from mixnorm_cuda.distributed import Processes, agree, processes_of
from mixnorm_cuda.estimation import em
from mixnorm_cuda.functional import expanded_responsibilities
from mixnorm_cuda.modules.documentation import documented
from mixnorm_cuda.modules.mixture_norm import Affine, MixtureNormBase
from mixnorm_cuda.types import BatchMoments, Mixture

AGREED = (
    "num_features",
    "num_components",
    "groups",
    "eps",
    "momentum",
    "track_running_stats",
    "estimator",
    "em_iters",
    "mixing_scale",
    "component_affine",
    "affine_init",
    "responsibility_grad",
)
"""Options that the processes must share."""


class SyncMixtureNorm(MixtureNormBase):
    __doc__ = (
        documented("[N, C, *S]", "SyncBatchNorm")
        + """
    Training in several processes uses the statistics of all their batches, as one process would
    with the batches joined: the mixture, the output and the input's gradient. Gradients of γ and β
    are of each process's own loss, as those of all parameters are, and DistributedDataParallel
    averages them. Each training step exchanges (2C + G)·K numbers per process in one collective
    (one more per EM step) and 2·C·K in the backward. Every process takes part in every step, with
    an empty batch too. In eval, and in one process, nothing is exchanged: an ordinary layer.

    Args:
        process_group: of ``torch.distributed``; None is the default group. A layer with one of its
            own cannot be pickled or deep-copied.

    Raises:
        ValueError: in the first training step, in every process: an option, the input's dtype or
            device type or the process group differs between the processes (the message names both
            values), or the arguments of one are wrong.
        NotImplementedError: second derivatives in several processes.
    """
    )

    process_group: "distributed.ProcessGroup | None"

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
        process_group: "distributed.ProcessGroup | None" = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            num_components=num_components,
            groups=groups,
            estimator=estimator,
            em_iters=em_iters,
            mixing_scale=mixing_scale,
            component_affine=component_affine,
            affine_init=affine_init,
            responsibility_grad=responsibility_grad,
            bias=bias,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.process_group = process_group
        self._agreed = False

    def __getstate__(self) -> dict[str, Any]:
        # Not every process may have loaded the copy, so its first step checks again.
        return vars(self) | {"_agreed": False}

    def forward(self, x: Tensor, responsibilities: Tensor | None = None) -> Tensor:
        """See `MixtureNormBase.forward`. Several processes first see that they agree."""
        # Not while compiling: what a graph exchanges is known before it runs.
        if not torch.compiler.is_compiling() and not self._agreed and self._processes():
            self._agree(x, responsibilities)
        return super().forward(x, responsibilities)

    def _processes(self) -> Processes | None:
        return processes_of(self.process_group) if self.training else None

    def _agree(self, x: Tensor, responsibilities: Tensor | None) -> None:
        # A checkpoint may have been loaded in one process, whose buffers the others then received:
        # collectives do not count as writing, so the counter is read anew.
        self._counter = None
        description: dict[str, Any] = {name: getattr(self, name) for name in AGREED}
        description["running statistics"] = "initial" if self._awaits_seeding() else "of data"
        description["weight"] = _kind(self.weight)
        description["bias"] = _kind(self.bias)
        description["input dtype"] = x.dtype
        description["device type"] = x.device.type
        description["responsibilities"] = "None" if responsibilities is None else "given"
        problem: Exception | None = None
        try:
            self._check_arguments(x, responsibilities)
        except (ValueError, TypeError, RuntimeError) as error:
            problem = error
        try:
            message = None if problem is None else str(problem)
            agree(description, message, self.process_group)
        except ValueError:
            if problem is not None:
                raise problem from None
            raise
        self._agreed = True

    def _check_arguments(self, x: Tensor, responsibilities: Tensor | None) -> None:
        """What a step checks in its course, all of it before the first exchange."""
        self._check_input(x)
        self._check_parameters(x, self._running(), self._affine())
        self._served_by(x, responsibilities)

    def _served_by(self, x: Tensor, responsibilities: Tensor | None) -> dispatch.Backend:
        if responsibilities is not None:
            checks.check_responsibilities(responsibilities, x, self.num_components)
        return dispatch.select(
            self.backend, x, self.num_components, self.groups, responsibilities is not None
        )

    def _normalize(
        self,
        x: Tensor,
        mixture: Mixture,
        affine: Affine,
        responsibilities: Tensor | None,
        training: bool,
        em_iters: int = 0,
    ) -> tuple[Tensor, BatchMoments | None]:
        processes = self._processes() if training else None
        if processes is None:
            return super()._normalize(x, mixture, affine, responsibilities, training, em_iters)
        backend = self._served_by(x, responsibilities)
        given = None
        if responsibilities is not None:
            given = expanded_responsibilities(responsibilities, x, self.groups)
        mixture = em(
            x, mixture, iters=em_iters, eps=self.eps, backend=self.backend, processes=processes
        )
        y, *moments = SyncMixtureNormFunction.apply(  # type: ignore[no-untyped-call]
            x, *mixture, *affine, given,
            self.eps, self.mixing_scale, self.responsibility_grad, backend.name, *processes,
        )  # fmt: skip
        return y, BatchMoments(*moments)


def _kind(parameter: Tensor | None) -> str:
    return "None" if parameter is None else str(parameter.dtype)
