"""Normalization layers beside BN and MN: the peers of the comparisons."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mixnorm_cuda import MixtureNorm2d


class ModeNorm2d(MixtureNorm2d):
    """Mode Normalization (Deecke, Murray and Bilen, ICLR 2019).

    A gate, linear on a sample's channel means and followed by a softmax, gives each sample's
    responsibilities; the modes are normalized apart and summed by them, without 1/√λ.
    """

    def __init__(self, num_features: int, *, num_components: int = 2, **options: Any) -> None:
        super().__init__(
            num_features, num_components=num_components, **({"mixing_scale": False} | options)
        )
        self.gate = nn.Linear(num_features, num_components)

    def forward(self, x: Tensor, responsibilities: Tensor | None = None) -> Tensor:
        if responsibilities is None:
            responsibilities = self.gate(x.mean(dim=(2, 3))).softmax(dim=1)
        return super().forward(x, responsibilities)


class DomainNorm2d(MixtureNorm2d):
    """One batch normalization, with γ and β of its own, per known domain of the samples.

    ``domain`` ``[N]`` int64 is set by :func:`set_domain` before every forward pass.
    """

    domain: Tensor | None = None

    def __init__(self, num_features: int, *, num_components: int = 2, **options: Any) -> None:
        fixed = {"mixing_scale": False, "component_affine": True}
        super().__init__(num_features, num_components=num_components, **(fixed | options))

    def forward(self, x: Tensor, responsibilities: Tensor | None = None) -> Tensor:
        if responsibilities is None:
            if self.domain is None or len(self.domain) != len(x):
                found = "not set" if self.domain is None else f"of {len(self.domain)} samples"
                raise RuntimeError(f"domain {found}: expected {len(x)} samples; use set_domain")
            one_hot = nn.functional.one_hot(self.domain, self.num_components)
            responsibilities = one_hot.to(x.dtype)
        return super().forward(x, responsibilities)


def set_domain(model: nn.Module, domain: Tensor) -> None:
    """Tell every :class:`DomainNorm2d` of ``model`` which domain each sample comes from."""
    for module in model.modules():
        if isinstance(module, DomainNorm2d):
            module.domain = domain


def group_norm(num_features: int, *, groups: int | None = None, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm (Wu and He, 2018); by default about 16 channels a group."""
    if groups is None:
        most = max(1, num_features // 16)
        groups = next(count for count in range(most, 0, -1) if num_features % count == 0)
    return nn.GroupNorm(groups, num_features, eps)
