"""Whether a layer's running statistics describe data, known on the host."""

from typing import Any

import torch
from torch import Tensor, nn


class SeedingState(nn.Module):
    """Keeps the answer on the host, for reading `num_batches_tracked` would wait for the device.

    The counter is read only when someone else has written into it, as an average of models
    (``torch.optim.swa_utils.AveragedModel``) does, or replaced it, as ``functional_call`` does.
    """

    num_batches_tracked: Tensor | None
    _seeded = False
    _counter: tuple[int, int] | None = None
    """Identity and version of the counter when the answer was last known."""
    _origin: "tuple[SeedingState, ...]" = ()
    """The layer that this is a replica of, under ``nn.DataParallel``."""

    def _awaits_seeding(self) -> bool:
        """Whether the running statistics describe nothing yet."""
        if self._seeded or self.num_batches_tracked is None:
            return not self._seeded
        if torch.compiler.is_compiling():
            return True
        tracked = self.num_batches_tracked
        transforms: Any = torch._C
        if (
            self._counter == _written(tracked)
            or tracked.is_meta
            or transforms._are_functorch_transforms_active()
        ):
            return True
        describes_data = bool(tracked > 0)
        if self._owns(tracked):
            self._seeded = describes_data
            self._note_counter()
        return not describes_data

    def _mark_seeded(self) -> None:
        """The running statistics have been set from data."""
        if self._seeded:
            return
        for layer in (self, *self._origin):
            if (
                torch.compiler.is_compiling()
                or self._origin
                or self._owns(self.num_batches_tracked)
            ):
                layer._seeded = True

    def _note_counter(self) -> None:
        tracked = self._buffers.get("num_batches_tracked")
        self._counter = None if tracked is None else _written(tracked)

    def _owns(self, tracked: Tensor | None) -> bool:
        """Whether ``tracked`` is the layer's own counter, not one that a caller passed."""
        return tracked is None or self._counter is None or self._counter[0] == id(tracked)

    def _replicate_for_data_parallel(self) -> "SeedingState":
        replica: SeedingState = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.__dict__["_origin"] = (self,)
        return replica

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._note_counter()


def _written(tracked: Tensor) -> tuple[int, int]:
    return id(tracked), tracked._version
