"""The running statistics of a layer: buffers, their update, and what casts do to them."""

from collections.abc import Callable

import torch
from torch import Tensor

from mixnorm_cuda import checks
from mixnorm_cuda.estimation import update_running_statistics
from mixnorm_cuda.modules.seeding_state import SeedingState
from mixnorm_cuda.types import BatchMoments, Mixture

RUNNING = ("running_weight", "running_mean", "running_var")


class RunningStatistics(SeedingState):
    """Buffers λ [G, K], μ [K, C], σ² [K, C] and the number of batches, or None for all four."""

    num_features: int
    num_components: int
    groups: int
    momentum: float | None
    track_running_stats: bool
    backend: str
    running_weight: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def _allocate_running(
        self, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        if not self.track_running_stats:
            for name in (*RUNNING, "num_batches_tracked"):
                self.register_buffer(name, None)
            return
        channels, components = self.num_features, self.num_components
        statistics = checks.statistics_dtype(dtype or torch.get_default_dtype())
        shapes = ((self.groups, components), (components, channels), (components, channels))
        for name, shape in zip(RUNNING, shapes, strict=True):
            self.register_buffer(name, torch.empty(shape, device=device, dtype=statistics))
        self.register_buffer(
            "num_batches_tracked", torch.empty((), device=device, dtype=torch.long)
        )

    def reset_running_stats(self) -> None:
        """λ = 1/K, μ = 0, σ² = 1, no batch tracked: the next training batch seeds anew."""
        self._seeded = False
        running = self._running()
        if running is None or self.num_batches_tracked is None:
            return
        running.mixing_weight.fill_(1 / self.num_components)
        running.mean.zero_()
        running.var.fill_(1)
        self.num_batches_tracked.zero_()
        self._note_counter()

    def _running(self) -> Mixture | None:
        # Past nn.Module's attribute lookup, which takes as long as all checks of an input.
        mixing_weight, mean, var = map(self._buffers.__getitem__, RUNNING)
        if mixing_weight is None or mean is None or var is None:
            return None
        return Mixture(mixing_weight, mean, var)

    def _track(
        self, running: Mixture, moments: BatchMoments, count: int | Tensor, outright: bool
    ) -> None:
        tracked = self.num_batches_tracked
        factor: float | Tensor = 1.0 if self.momentum is None else self.momentum
        if outright:
            factor = 1.0
        elif self.momentum is None and tracked is not None:
            factor = 1 / (tracked + 1).to(running.mean.dtype)
        finite = update_running_statistics(running, moments, count, factor, self.backend)
        if tracked is not None:
            tracked.add_(finite)
        self._mark_seeded()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RunningStatistics":
        """Moves and casts like every module, but keeps running statistics above half precision.

        A running average in bfloat16 stops moving once its steps fall below 1/256 of it.
        """
        before = {name: self._buffers[name] for name in RUNNING}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, statistic in before.items():
            after = self._buffers[name]
            if after is None or statistic is None:
                continue
            if after.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = statistic.to(after.device, torch.float32)
        self._note_counter()
        return self
