"""Public names, their arguments in order, and their defaults."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mixnorm_cuda as mx

REQUIRED = inspect.Parameter.empty
LAYER = {
    "num_features": REQUIRED,
    "eps": 1e-5,
    "momentum": 0.1,
    "affine": True,
    "track_running_stats": True,
}
LAYER_KEYWORDS = {
    "num_components": 3,
    "groups": 1,
    "estimator": "online",
    "em_iters": None,
    "mixing_scale": True,
    "component_affine": False,
    "affine_init": "ones",
    "responsibility_grad": True,
    "bias": True,
    "backend": "auto",
    "device": None,
    "dtype": None,
}
SIGNATURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "MixtureNorm1d": (LAYER, LAYER_KEYWORDS),
    "MixtureNorm2d": (LAYER, LAYER_KEYWORDS),
    "MixtureNorm3d": (LAYER, LAYER_KEYWORDS),
    "functional.mixture_normalize": (
        {
            "x": REQUIRED,
            "mixing_weight": REQUIRED,
            "mean": REQUIRED,
            "var": REQUIRED,
            "weight": None,
            "bias": None,
        },
        {
            "training": True,
            "eps": 1e-5,
            "em_iters": 0,
            "mixing_scale": True,
            "responsibility_grad": True,
            "responsibilities": None,
            "backend": "auto",
        },
    ),
    "functional.mixture_norm": (
        {
            "x": REQUIRED,
            "running_weight": REQUIRED,
            "running_mean": REQUIRED,
            "running_var": REQUIRED,
            "weight": None,
            "bias": None,
            "training": False,
            "momentum": 0.1,
            "eps": 1e-5,
        },
        {"em_iters": 0, "mixing_scale": True, "responsibility_grad": True, "backend": "auto"},
    ),
    "convert_mixture_norm": (
        {"module": REQUIRED},
        {"only": None, "num_components": 3, "**layer_options": REQUIRED},
    ),
    "revert_mixture_norm": ({"module": REQUIRED}, {}),
    "GaussianMixture": (
        {"n_components": REQUIRED},
        {
            "tol": 1e-3,
            "reg_covar": 1e-6,
            "max_iter": 100,
            "n_init": 1,
            "init_params": "k-means++",
            "random_state": None,
            "weights_init": None,
            "means_init": None,
            "precisions_init": None,
        },
    ),
    "GaussianMixture.fit": ({"self": REQUIRED, "X": REQUIRED, "y": None}, {}),
    "GaussianMixture.predict": ({"self": REQUIRED, "X": REQUIRED}, {}),
    "GaussianMixture.predict_proba": ({"self": REQUIRED, "X": REQUIRED}, {}),
    "GaussianMixture.score": ({"self": REQUIRED, "X": REQUIRED, "y": None}, {}),
    "GaussianMixture.sample": ({"self": REQUIRED, "n_samples": 1}, {}),
    "convert_sync_mixture_norm": ({"module": REQUIRED, "process_group": None}, {}),
    "update_statistics": ({"loader": REQUIRED, "module": REQUIRED, "device": None}, {}),
    "plot_mixture": ({"layer": REQUIRED, "x": REQUIRED, "channel": None}, {}),
    "MixtureMonitor": (
        {"model": REQUIRED},
        {"every": 100, "tolerance": 1e-2, "on_collapse": None},
    ),
    "build_info": ({}, {}),
}


def resolve(name: str) -> Callable[..., Any]:
    found: Any = mx
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters(function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Positional and keyword-only parameters with their defaults, in order."""
    positional, keyword = {}, {}
    for p in inspect.signature(function).parameters.values():
        assert p.kind is not p.VAR_POSITIONAL
        if p.kind is p.POSITIONAL_OR_KEYWORD:
            positional[p.name] = p.default
        else:
            keyword["**" * (p.kind is p.VAR_KEYWORD) + p.name] = p.default
    return positional, keyword


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    actual = [list(part.items()) for part in parameters(resolve(name))]
    assert actual == [list(part.items()) for part in SIGNATURES[name]]


def test_signature_of_the_sync_layer() -> None:
    """The layer's arguments, of which none may be missing or come in another order."""
    positional, keyword = parameters(mx.SyncMixtureNorm)
    assert list(positional.items()) == list(LAYER.items())
    assert LAYER_KEYWORDS.items() <= keyword.items()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_arguments_follow_batch_norm(dims: int) -> None:
    """Every argument of BatchNorm is accepted, with its default, and in its position up to device,
    which is by keyword here.
    """
    theirs = inspect.signature(getattr(nn, f"BatchNorm{dims}d")).parameters
    ours = inspect.signature(getattr(mx, f"MixtureNorm{dims}d")).parameters
    assert list(ours)[:5] == list(theirs)[:5]
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name


def test_names() -> None:
    expected = {
        "BackendUnavailableError", "GaussianMixture", "LazyMixtureNorm1d", "LazyMixtureNorm2d",
        "LazyMixtureNorm3d", "MixtureMonitor", "MixtureNorm1d", "MixtureNorm2d", "MixtureNorm3d",
        "SyncMixtureNorm", "__version__", "build_info", "convert_mixture_norm",
        "convert_sync_mixture_norm", "functional", "metrics", "plot_mixture", "revert_mixture_norm",
        "update_statistics",
    }  # fmt: skip
    assert set(mx.__all__) == expected
    assert all(hasattr(mx, name) for name in expected)
    assert {"mixture_norm", "mixture_normalize", "BatchMoments"} == set(mx.functional.__all__)
    assert mx.functional.BatchMoments._fields == ("mass", "mean", "var")


@pytest.mark.parametrize("name", [*SIGNATURES, "SyncMixtureNorm", "LazyMixtureNorm1d",
    "LazyMixtureNorm2d", "LazyMixtureNorm3d", "BackendUnavailableError", "functional"])  # fmt: skip
def test_docstrings(name: str) -> None:
    documentation = inspect.getdoc(resolve(name))
    assert documentation is not None
    assert len(documentation) > 30 or name.startswith("GaussianMixture.")
    if name in SIGNATURES and SIGNATURES[name][0] and "." not in name:
        for argument in {**SIGNATURES[name][0], **SIGNATURES[name][1]}:
            assert argument.strip("*") in documentation, argument


@pytest.mark.parametrize("name", ["MixtureNorm1d", "MixtureNorm2d", "functional.mixture_normalize",
    "functional.mixture_norm", "convert_mixture_norm", "convert_sync_mixture_norm",
    "revert_mixture_norm", "GaussianMixture", "update_statistics"])  # fmt: skip
def test_docstrings_name_the_errors(name: str) -> None:
    assert "Raises:" in inspect.getdoc(resolve(name))


def test_version() -> None:
    assert mx.__version__.count(".") >= 2
    try:
        installed = metadata.version("mixnorm_cuda")
    except metadata.PackageNotFoundError:
        pytest.skip("mixnorm_cuda is imported from its source tree, not installed")
    assert mx.__version__ == installed


def test_typed() -> None:
    assert (Path(mx.__file__).parent / "py.typed").is_file()


def test_import_costs_no_test_dependency() -> None:
    """Importing the package loads neither scikit-learn nor matplotlib, nor starts CUDA."""
    code = (
        "import sys, mixnorm_cuda, torch; "
        "loaded = {'sklearn', 'matplotlib', 'mlxtend', 'pytest'} & set(sys.modules); "
        "assert not loaded, loaded; assert not torch.cuda.is_initialized()"
    )
    root = str(Path(mx.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=120)


def test_backend_names() -> None:
    x = torch.randn(4, 6)
    for name in ("auto", "reference"):
        assert mx.MixtureNorm1d(6, backend=name)(x).shape == x.shape
    for name in ("cpu", "triton", "cuda", "emulated"):
        layer = mx.MixtureNorm1d(6, backend=name)
        if mx.dispatch.why_not(name, x, 3, 1) is None:
            assert layer(x).shape == x.shape
        else:
            with pytest.raises(mx.BackendUnavailableError, match=name):
                layer(x)
    with pytest.raises(ValueError, match="backend='gpu'"):
        mx.MixtureNorm1d(6, backend="gpu")
    assert issubclass(mx.BackendUnavailableError, RuntimeError)
