"""Which normalization each layer of a network gets, read from one ``--norm`` value."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mixnorm_cuda import MixtureNorm2d

NormLayer = Callable[[int, int], nn.Module]
"""(position of the layer, from 1; number of channels) -> the layer."""

_DEFAULT_LAYERS = frozenset({2})
_SHORT = {"k": "num_components", "K": "num_components"}
_NOT_OPTIONS = {"num_features", "device", "dtype"}
_OPTIONS = tuple(
    name for name in inspect.signature(MixtureNorm2d).parameters if name not in _NOT_OPTIONS
)
_GRAMMAR = "bn, mn, or mn:option=value,... such as mn:layers=2+3,k=5,groups=C/16"


@dataclass(frozen=True)
class Norm:
    """Batch normalization, with mixture normalization at the positions ``layers``.

    ``layers`` is empty for plain BN and None for every layer; ``options`` are those of
    :class:`mixnorm_cuda.MixtureNorm2d`, where ``groups`` may also be ``"C"`` or ``"C/<int>"``.
    """

    label: str
    layers: frozenset[int] | None = frozenset()
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, text: str) -> Norm:
        """Read ``bn``, ``mn`` or ``mn:layers=2+3,k=5,...``; ``layers=all`` replaces every BN.

        Raises:
            ValueError: naming the part that is not understood.
        """
        name, _, tail = text.partition(":")
        if name == "bn" and not tail:
            return cls(text)
        if name != "mn":
            raise ValueError(f"norm {text!r}: expected {_GRAMMAR}")
        layers: frozenset[int] | None = _DEFAULT_LAYERS
        options: dict[str, Any] = {}
        for item in filter(None, tail.split(",")):
            key, equals, value = item.partition("=")
            key = _SHORT.get(key, key)
            if not equals or key not in ("layers", *_OPTIONS):
                known = ", ".join(("layers", "k", *_OPTIONS))
                raise ValueError(f"norm {text!r}: {item!r} is not option=value with one of {known}")
            if key == "layers":
                layers = _parse_layers(text, value)
            else:
                options[key] = _parse_value(value)
        return cls(text, layers, options)

    def layer(self, position: int, channels: int) -> nn.Module:
        if self.layers is not None and position not in self.layers:
            return nn.BatchNorm2d(channels)
        options = dict(self.options)
        if isinstance(groups := options.get("groups"), str):
            options["groups"] = _groups(groups, channels)
        return MixtureNorm2d(channels, **options)

    def check_depth(self, depth: int) -> None:
        """Raise ``ValueError`` if a position lies past a network's ``depth`` layers."""
        beyond = sorted(position for position in self.layers or () if position > depth)
        if beyond:
            raise ValueError(
                f"norm {self.label!r}: no normalization layer {beyond[0]}; the network has {depth}"
            )


def normalization_layers(model: nn.Module) -> list[nn.Module]:
    """The normalization layers of ``model`` in order: position 1 is the first."""
    return [m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, MixtureNorm2d))]


def _parse_layers(text: str, value: str) -> frozenset[int] | None:
    if value == "all":
        return None
    if not re.fullmatch(r"[1-9]\d*(\+[1-9]\d*)*", value):
        raise ValueError(f"norm {text!r}: layers={value!r}; expected all, or positions as in 2+3")
    return frozenset(map(int, value.split("+")))


def _parse_value(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _groups(value: str, channels: int) -> int:
    match = re.fullmatch(r"C(?:/([1-9]\d*))?", value)
    if match is None:
        raise ValueError(f"groups={value!r}: expected a number, C or C/<number>")
    per_group = int(match[1] or 1)
    if channels % per_group:
        raise ValueError(f"groups={value!r}: {channels} channels do not divide by {per_group}")
    return channels // per_group
