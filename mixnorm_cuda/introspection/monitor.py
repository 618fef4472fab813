"""Watching the mixtures of a model while it trains."""

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mixnorm_cuda.modules.mixture_norm import MixtureNormBase
from mixnorm_cuda.modules.summary import empty_components
from mixnorm_cuda.types import Mixture


class Collapse(NamedTuple):
    """A component that does no work of its own."""

    layer: str
    """The layer's name in the model."""
    group: int
    component: int
    reason: str
    """``"empty"``, or ``"coincides with j"``: an earlier component of the same distribution."""


class MixtureMonitor:
    """Looks at every mixture layer of ``model`` now and then and flags collapsed components.

    A component has collapsed when its mixing weight is below 1e-3, or when it coincides with an
    earlier one of its group: in every channel of the group the means lie within ``tolerance``
    standard deviations of each other, and the variances within that fraction.

    Forward hooks look at every ``every``-th training step of a layer, which waits for the device
    then, and only then. What they find the first time is warned about; `collapsed` has all that is
    so at the last look. `remove` takes the hooks off, as does the end of a ``with`` block.

    Args:
        model: any module; its mixture layers with running statistics are watched.
        every: a layer's training steps from one look to the next, at least 1.
        tolerance: how near counts as coinciding, above 0.
        on_collapse: called with every new `Collapse` in place of the warning.

    Raises:
        ValueError: ``every`` or ``tolerance`` is out of range, or there is no layer to watch.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 100,
        tolerance: float = 1e-2,
        on_collapse: Callable[[Collapse], Any] | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every={every}: expected 1 or more steps")
        if not tolerance > 0:
            raise ValueError(f"tolerance={tolerance}: expected a number above 0")
        layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, MixtureNormBase) and layer.track_running_stats
        }
        if not layers:
            raise ValueError("model has no mixture layer with running statistics to watch")
        self.every = every
        self.tolerance = tolerance
        self._on_collapse = on_collapse or _warn
        self._found: dict[str, list[Collapse]] = {name: [] for name in layers}
        self._steps = dict.fromkeys(layers, 0)
        self._hooks = [
            layer.register_forward_hook(self._hook(name)) for name, layer in layers.items()
        ]

    @property
    def collapsed(self) -> list[Collapse]:
        """What had collapsed at each layer's last look, in the order of the layers."""
        return [collapse for found in self._found.values() for collapse in found]

    def remove(self) -> None:
        """Stop watching; `collapsed` keeps its value."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> "MixtureMonitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def after_forward(layer: MixtureNormBase, *_: Any) -> None:
            if not layer.training or torch.compiler.is_compiling():
                return
            self._steps[name] += 1
            if self._steps[name] % self.every == 0:
                self._look(name, layer)

        return after_forward

    def _look(self, name: str, layer: MixtureNormBase) -> None:
        running = layer._running()
        if running is None:
            return
        known = set(self._found[name])
        self._found[name] = [
            Collapse(name, *place) for place in _collapsed(running, self.tolerance)
        ]
        for collapse in self._found[name]:
            if collapse not in known:
                self._on_collapse(collapse)


def _warn(collapse: Collapse) -> None:
    layer, group, component, reason = collapse
    warnings.warn(
        f"component {component} of group {group} in layer {layer!r} has collapsed: {reason}",
        stacklevel=2,
    )


@torch.no_grad()
def _collapsed(mixture: Mixture, tolerance: float) -> list[tuple[int, int, str]]:
    """(group, component, reason) of every collapsed component."""
    groups, components = mixture.mixing_weight.shape
    empty = empty_components(mixture.mixing_weight).cpu()
    mean, var = (_grouped(t, groups) for t in (mixture.mean, mixture.var))
    scale = torch.maximum(var.unsqueeze(2), var.unsqueeze(1)).clamp_min(torch.finfo(var.dtype).tiny)
    apart = (mean.unsqueeze(2) - mean.unsqueeze(1)).square() / scale
    wider = (var.unsqueeze(2) - var.unsqueeze(1)).abs() / scale
    alike = ((apart <= tolerance**2) & (wider <= tolerance)).all(dim=3).cpu()
    found = []
    for g in range(groups):
        for k in range(components):
            twins = [j for j in range(k) if alike[g, j, k] and not empty[g, j]]
            if empty[g, k]:
                found.append((g, k, "empty"))
            elif twins:
                found.append((g, k, f"coincides with {twins[0]}"))
    return found


def _grouped(value: Tensor, groups: int) -> Tensor:
    """[K, C] -> [G, K, D]."""
    return value.view(value.shape[0], groups, -1).transpose(0, 1)
