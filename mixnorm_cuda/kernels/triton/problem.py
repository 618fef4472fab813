"""One layer's sizes, and which kernels with which tiles serve it. No Triton here."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import config
from mixnorm_cuda.kernels.triton.config import NU_CHANNEL, NU_JOINT, NU_LOADED, NU_ONE, Launch, Tile
from mixnorm_cuda.kernels.triton.geometry import Geometry, geometry
from mixnorm_cuda.types import Mixture

INTERPRETER_MULTIPROCESSORS = 1
"""Under the interpreter: enough for several chunks, few enough to be quick."""


@functools.cache
def multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETER_MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@dataclass(frozen=True)
class Problem:
    """Sizes and options that the launches of one call share."""

    geometry: Geometry
    groups: int
    components: int
    itemsize: int
    statistics: torch.dtype
    device: torch.device
    eps: float

    @staticmethod
    def of(x: Tensor, mixture: Mixture, eps: float) -> "Problem":
        groups, components = mixture.mixing_weight.shape
        statistics = mixture.mean.dtype
        return Problem(geometry(x), groups, components, x.element_size(), statistics, x.device, eps)

    @property
    def channels(self) -> int:
        return self.geometry.channels

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @functools.cached_property
    def nu(self) -> str:
        """How sweeps get ν: "loaded" where there is one mixture, or where the channels of a group
        fit no tile; else computed again in each.
        """
        if self.components == 1:
            return NU_ONE
        if self.group_channels == 1:
            return NU_CHANNEL
        if self.groups == 1:
            return NU_LOADED
        swept = ("moments", "normalize", "output_sums", "input_gradient")
        fits = all(self.launch(kernel, NU_JOINT) is not None for kernel in swept)
        return NU_JOINT if fits else NU_LOADED

    @property
    def keeps_nu(self) -> bool:
        """Whether the backward gets the forward's ν: for one mixture, where it is K/C of the input
        (2K/C in half precision)."""
        return self.nu == NU_LOADED and self.groups == 1

    def span(self, nu: str) -> int:
        """Channels that blocks are cut from: a group, or all when channels do not meet."""
        return self.channels if nu in (NU_ONE, NU_CHANNEL) else self.group_channels

    def launch(self, kernel: str, nu: str, *, sums: int = 0) -> Launch | None:
        """Tile and grid of ``kernel``; None where a group's channels do not fit one tile."""
        tile = config.choose_tile(
            kernel,
            self.geometry,
            self.span(nu),
            self.components,
            nu,
            itemsize=self.itemsize,
            sums=sums,
        )
        return None if tile is None else self._launch(kernel, tile, nu)

    def dot(self, kernel: str) -> Launch | None:
        """As `launch` of a kernel that uses matrix units, where that serves this problem."""
        if self.nu in (NU_ONE, NU_CHANNEL) or self.statistics != torch.float32:
            return None
        tile = config.choose_dot(
            kernel, self.geometry, self.group_channels, self.components, itemsize=self.itemsize
        )
        return None if tile is None else self._launch(kernel, tile, NU_JOINT)

    def _launch(self, kernel: str, tile: Tile, nu: str) -> Launch:
        return config.choose_launch(
            tile,
            self.geometry,
            self.channels,
            self.span(nu),
            multiprocessors(self.device),
            config.budget_of(kernel),
        )

    def blocked(self, kernel: str, nu: str = NU_LOADED, *, sums: int = 0) -> Launch:
        """As `launch` where blocks of channels may be of any size, so one always fits."""
        launch = self.launch(kernel, nu, sums=sums)
        assert launch is not None
        return launch

    def fused(self, kernel: str, *, sums: int = 0) -> Launch | None:
        """Of a launch that does all passes, for problems small enough."""
        if self.nu == NU_LOADED and not self.keeps_nu:
            return None
        nu = NU_JOINT if self.nu == NU_LOADED else self.nu
        return config.choose_fused(
            kernel,
            self.geometry,
            self.channels,
            self.span(nu),
            self.components,
            nu,
            multiprocessors(self.device),
            itemsize=self.itemsize,
            sums=sums,
        )

    def per_group(self, kernel: str) -> Launch:
        """Of a kernel whose programs go over all channel blocks of their group."""
        launch = self.blocked(kernel)
        tile = launch.tile
        return config.choose_launch(
            tile,
            self.geometry,
            self.groups * tile.block_c,
            tile.block_c,
            multiprocessors(self.device),
            config.budget_of(kernel),
        )

    def empty(self, *size: int) -> Tensor:
        return torch.empty(size, dtype=self.statistics, device=self.device)

    def empty_nu(self) -> Tensor:
        return self.empty(self.groups, self.components, self.geometry.positions)
