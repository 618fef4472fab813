"""Which normalization each layer of a network gets, read from one ``--norm`` value."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from examples.layers import DomainNorm2d, ModeNorm2d, group_norm
from mixnorm_cuda import MixtureNorm2d

_ALL = ("*",)
_SHORT = {"k": "num_components", "K": "num_components"}
_KINDS: dict[str, Callable[..., nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "mn": MixtureNorm2d,
    "gn": group_norm,
    "mode": ModeNorm2d,
    "domain": DomainNorm2d,
}
_NOT_OPTIONS = {"num_features", "device", "dtype"}
_GRAMMAR = "bn, mn, gn, mode or domain, with options as in mn:layers=2+3,k=5,groups=C/16"


@dataclass(frozen=True)
class Norm:
    """A kind of normalization in place of some of a network's batch normalizations.

    ``layers`` are positions (from ``"1"``) and patterns of names; None: the network's
    ``MIXTURE_LAYERS``, or every layer for GroupNorm. ``options`` are those of the layer's class,
    where ``groups`` may also be ``"C"`` or ``"C/<int>"``.
    """

    label: str
    kind: str = "bn"
    layers: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, text: str) -> Norm:
        """Read ``bn``, ``mn``, ``gn``, ``mode`` or ``domain``, with ``:layers=2+3,k=5,...``.

        ``layers=all`` replaces every BN; else terms joined by +, each a position or a pattern of
        names such as ``blocks.8.*``. The networks' docstrings list their names.

        Raises:
            ValueError: naming the part that is not understood.
        """
        kind, _, tail = text.partition(":")
        if kind not in _KINDS or (kind == "bn" and tail):
            raise ValueError(f"norm {text!r}: expected {_GRAMMAR}")
        layers: tuple[str, ...] | None = _ALL if kind == "gn" else None
        options: dict[str, Any] = {}
        known = _options(kind)
        for item in filter(None, tail.split(",")):
            key, equals, value = item.partition("=")
            key = _SHORT.get(key, key)
            if not equals or key not in ("layers", *known):
                named = ", ".join(("layers", *(("k",) if kind != "gn" else ()), *known))
                raise ValueError(f"norm {text!r}: {item!r} is not option=value with one of {named}")
            if key == "layers":
                layers = _parse_layers(text, value)
            else:
                options[key] = _parse_value(value)
        return cls(text, kind, layers, options)

    def layer(self, channels: int) -> nn.Module:
        options = dict(self.options)
        if isinstance(groups := options.get("groups"), str):
            options["groups"] = _groups(groups, channels)
        return _KINDS[self.kind](channels, **options)

    def positions(self, model: nn.Module) -> list[int]:
        """The positions, from 1, of the normalization layers that this norm takes in ``model``.

        Raises:
            ValueError: a position or a pattern that the network has no layer for.
        """
        if self.kind == "bn":
            return []
        names = list(_normalizations(model))
        found: set[int] = set()
        own: tuple[str, ...] = getattr(model, "MIXTURE_LAYERS", _ALL)
        for term in self.layers or own:
            if term.isdigit():
                matching = {int(term)} & set(range(1, len(names) + 1))
            else:
                matching = {n for n, name in enumerate(names, 1) if fnmatchcase(name, term)}
            if not matching:
                raise ValueError(
                    f"norm {self.label!r}: no normalization layer {term}; "
                    f"the network has {len(names)}, from {names[0]} to {names[-1]}"
                )
            found |= matching
        return sorted(found)

    def apply(self, model: nn.Module) -> None:
        """Replace the chosen layers of ``model``, which are BN, in place.

        Raises:
            ValueError: as :meth:`positions`; an option that does not fit a layer.
        """
        layers = list(_normalizations(model).items())
        for position in self.positions(model):
            name, layer = layers[position - 1]
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, self.layer(layer.num_features))


def normalization_layers(model: nn.Module) -> list[nn.Module]:
    """The normalization layers of ``model`` in order: position 1 is the first."""
    return list(_normalizations(model).values())


def _normalizations(model: nn.Module) -> dict[str, Any]:
    kinds = (nn.BatchNorm2d, nn.GroupNorm, MixtureNorm2d)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _options(kind: str) -> tuple[str, ...]:
    """The options of a kind's class, and those of MixtureNorm2d where it passes them on."""
    names = list(inspect.signature(_KINDS[kind]).parameters)
    if "options" in names:
        names = list(inspect.signature(MixtureNorm2d).parameters)
    return tuple(name for name in names if name not in _NOT_OPTIONS)


def _parse_layers(text: str, value: str) -> tuple[str, ...]:
    if value == "all":
        return _ALL
    terms = tuple(value.split("+"))
    for term in terms:
        if not re.fullmatch(r"[1-9]\d*|[A-Za-z*][\w.*?\[\]]*", term):
            raise ValueError(
                f"norm {text!r}: layers={value!r}; expected all, or positions and names as in "
                "2+3 or blocks.8.*+blocks.9.*"
            )
    return terms


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
