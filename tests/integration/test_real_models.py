"""Models of other packages, with random weights: converted, they compute what they did."""

import copy
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import mixnorm_cuda as mx


def package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (
        ImportError,
        RuntimeError,
    ) as error:  # torchvision raises the latter beside another torch
        pytest.skip(f"{name} cannot be imported: {error}")


def transformers_model(name: str, **options: Any) -> nn.Module:
    transformers = package("transformers")
    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}Model")(config)


def torchvision_model(name: str, **options: Any) -> nn.Module:
    package("torchvision")
    return getattr(importlib.import_module("torchvision.models"), name)(weights=None, **options)


def timm_model(name: str, **options: Any) -> nn.Module:
    package("torchvision")
    return package("timm").create_model(name, pretrained=False, **options)


SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformers ResNet": partial(transformers_model, "ResNet", layer_type="basic", **SMALL),
    "transformers RegNet": partial(transformers_model, "RegNet", groups_width=4, **SMALL),
    "transformers MobileNetV1": partial(
        transformers_model, "MobileNetV1", depth_multiplier=0.25, image_size=64
    ),
    "transformers MobileNetV2": partial(
        transformers_model, "MobileNetV2", depth_multiplier=0.25, image_size=64
    ),
    "torchvision ResNet-50": partial(torchvision_model, "resnet50"),
    "torchvision DenseNet-121": partial(torchvision_model, "densenet121"),
    "torchvision Inception-V3": partial(
        torchvision_model, "inception_v3", init_weights=False, aux_logits=False
    ),
    "timm ResNet": partial(timm_model, "resnet10t"),
    "timm EfficientNet": partial(timm_model, "efficientnet_b0"),
}


def output(model: nn.Module, x: Tensor) -> Tensor:
    y = model(x)
    for name in ("pooler_output", "logits"):
        y = getattr(y, name, y)
    return y.flatten(1)


def batch(name: str, samples: int) -> Tensor:
    size = 80 if "Inception" in name else 64
    return torch.randn(samples, 3, size, size)


@pytest.fixture(
    params=[p if "transformers" in p else pytest.param(p, marks=pytest.mark.slow) for p in MODELS]
)
def pretrained(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """A model whose BatchNorm layers have statistics and affine parameters of their own."""
    model = MODELS[request.param]()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        model.train()(batch(request.param, 4))
    return request.param, model.eval().double()


def converted(model: nn.Module, **options: Any) -> nn.Module:
    new = mx.convert_mixture_norm(copy.deepcopy(model), **options)
    layers = [m for m in new.modules() if isinstance(m, mx.MixtureNorm2d)]
    assert len(layers) == sum(isinstance(m, _BatchNorm) for m in model.modules()) > 0
    return new


@pytest.mark.parametrize(
    "options",
    [{"num_components": 1}, {"num_components": 3, "component_affine": True}],
    ids=["K=1", "K=3"],
)
def test_eval_outputs_stay(pretrained: tuple[str, nn.Module], options: dict[str, Any]) -> None:
    name, model = pretrained
    x = batch(name, 2).double()
    with torch.no_grad():
        expected = output(model, x)
        found = output(converted(model, **options), x)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_a_converted_model_trains(pretrained: tuple[str, nn.Module]) -> None:
    name, model = pretrained
    new = converted(model.float(), component_affine=True).train()
    output(new, batch(name, 4)).square().mean().backward()
    layers = [m for m in new.modules() if isinstance(m, mx.MixtureNorm2d)]
    assert all(m.weight.grad.isfinite().all() for m in layers if m.weight.grad is not None)
    assert sum(m.weight.grad is not None for m in layers) > len(layers) / 2


def test_chosen_layers_of_a_transformers_model() -> None:
    model = MODELS["transformers ResNet"]()
    mx.convert_mixture_norm(model, only="encoder.stages.1.*")
    kinds = {name: type(m) for name, m in model.named_modules()}
    chosen = {name for name, kind in kinds.items() if kind is mx.MixtureNorm2d}
    assert chosen
    assert all(name.startswith("encoder.stages.1.") for name in chosen)
    assert any(kind is nn.BatchNorm2d for kind in kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize("make", [torchvision_model, timm_model], ids=["torchvision", "timm"])
def test_norm_layer_argument(make: Callable[..., nn.Module]) -> None:
    model = make("resnet18", norm_layer=partial(mx.MixtureNorm2d, num_components=2))
    layers = [m for m in model.modules() if isinstance(m, mx.MixtureNorm2d)]
    assert len(layers) == 20
    assert not any(isinstance(m, _BatchNorm) for m in model.modules())
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    assert all(m.num_batches_tracked == 1 and m.weight.grad is not None for m in layers)
