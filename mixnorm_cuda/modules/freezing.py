"""Layers held as they are while the rest of a model trains."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound="Freezable")


class Freezable(nn.Module):
    """A layer with `freeze` and `unfreeze`."""

    # What `unfreeze` restores; None while not frozen. A class attribute, so that layers pickled
    # before there was one have it too.
    _thawed: dict[str, bool] | None = None

    @property
    def frozen(self) -> bool:
        """Whether the layer is held by `freeze`."""
        return self._thawed is not None

    def freeze(self: Layer) -> Layer:
        """Hold parameters and statistics until `unfreeze`: eval mode, and no gradient for γ and β.

        Unlike after ``.eval().requires_grad_(False)``, ``train()`` of a parent changes nothing.
        Gradients still flow to the input.
        """
        if self._thawed is None:
            self._thawed = {name: p.requires_grad for name, p in self.named_parameters()}
            self._thawed[""] = self.training
        self.requires_grad_(False)
        super().train(False)
        return self

    def unfreeze(self: Layer) -> Layer:
        """Undo `freeze`: ``requires_grad`` as before, and the mode last set by ``train``."""
        if self._thawed is not None:
            thawed, self._thawed = self._thawed, None
            self.train(thawed.pop(""))
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(thawed.get(name, True))
        return self

    def train(self: Layer, mode: bool = True) -> Layer:
        """As of any module; a frozen layer takes the mode when it is unfrozen."""
        if self._thawed is not None:
            self._thawed[""] = mode
            mode = False
        super().train(mode)
        return self
