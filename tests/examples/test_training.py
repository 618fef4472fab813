"""Norm choice, networks and training: what is equal across norms, and what a run records."""

import pytest
import torch
from torch import nn

from examples.batches import Batches
from examples.models import CNN5, build
from examples.norms import Norm, normalization_layers
from examples.training import Recipe, Run, evaluate, evaluation_steps, train
from mixnorm_cuda import MixtureNorm2d


def _train(data, norm: str = "mn", seed: int = 0, **recipe) -> Run:
    chosen = Norm.parse(norm)
    model = build("cnn5", data.channels, len(data.classes), chosen, 0.0625, seed)
    recipe = {"steps": 6, "batch_size": 32, "evaluations": 3} | recipe
    return train(model, data, Recipe(**recipe), norm=norm, learning_rate=0.005, seed=seed)


@pytest.mark.parametrize("size", [28, 32, 9])
@pytest.mark.parametrize("norm", ["bn", "mn"])
def test_cnn5_shapes(size, norm):
    model = build("cnn5", 3, 7, Norm.parse(norm), 0.125, seed=0)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_cnn5_is_the_papers_network():
    model = CNN5(3, 10)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 128, 128, 256]
    assert {c.kernel_size for c in convolutions} == {(5, 5)}
    assert {c.stride for c in convolutions} == {(1, 1)}
    pools = [m for m in model.modules() if isinstance(m, nn.MaxPool2d)]
    assert [(p.kernel_size, p.stride) for p in pools] == [(3, 2)] * 3
    with torch.no_grad():
        assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, 256, 4, 4)


@pytest.mark.parametrize(
    ("text", "mixtures"),
    [
        ("bn", []),
        ("mn", [(2, 3, 1)]),
        ("mn:layers=1+4,k=5", [(1, 5, 1), (4, 5, 1)]),
        ("mn:layers=all,groups=C", [(1, 3, 8), (2, 3, 16), (3, 3, 16), (4, 3, 32)]),
        ("mn:groups=C/4,num_components=2", [(2, 2, 4)]),
        ("mn:groups=8", [(2, 3, 8)]),
    ],
)
def test_norm_choice(text, mixtures):
    layers = normalization_layers(build("cnn5", 1, 4, Norm.parse(text), 0.125, seed=0))
    assert len(layers) == 4
    found = [
        (position, layer.num_components, layer.groups)
        for position, layer in enumerate(layers, start=1)
        if isinstance(layer, MixtureNorm2d)
    ]
    assert found == mixtures


def test_norm_options_reach_the_layer():
    norm = Norm.parse("mn:estimator=batch,em_iters=1,mixing_scale=False,eps=1e-3")
    layer = norm.layer(8)
    assert (layer.estimator, layer.em_iters, layer.mixing_scale, layer.eps) == (
        "batch",
        1,
        False,
        1e-3,
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ln", "'ln'"),
        ("gn:k=3", "'k=3'"),
        ("bn:k=3", "'bn:k=3'"),
        ("mn:depth=3", "depth=3"),
        ("mn:k", "'k'"),
        ("mn:layers=0", "layers='0'"),
        ("mn:layers=2-3", "layers='2-3'"),
    ],
)
def test_bad_norm(text, named):
    with pytest.raises(ValueError, match="norm") as caught:
        Norm.parse(text)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mn:layers=2+5", "no normalization layer 5; the network has 4"),
        ("mn:groups=C/3", "16 channels do not divide by 3"),
        ("mn:groups=D", "groups='D'"),
        ("mn:k=0", "num_components"),
    ],
)
def test_norm_that_does_not_fit_the_network(text, message):
    with pytest.raises(ValueError, match=r"norm|groups|num_components") as caught:
        build("cnn5", 1, 4, Norm.parse(text), 0.125, seed=0)
    assert message in str(caught.value)


def test_same_seed_same_weights_across_norms():
    networks = [build("cnn5", 1, 4, Norm.parse(text), 0.125, seed=3) for text in ("bn", "mn")]
    weights = [
        [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        for network in networks
    ]
    assert len(weights[0]) == 5
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_data_order_does_not_depend_on_the_norm():
    """A mixture's seeding draws from torch's generator; the batches must not notice."""
    batches = Batches(100, 32, seed=5)
    first = [next(batches) for _ in range(7)]
    batches = Batches(100, 32, seed=5)
    again = []
    for _ in range(7):
        torch.rand(3)
        again.append(next(batches))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], next(Batches(100, 32, seed=6)))
    epoch = torch.cat(first[:3])
    assert len(epoch.unique()) == 96, "an epoch repeats no image"
    assert not torch.equal(first[0], first[3]), "the second epoch is in another order"


@pytest.mark.parametrize("norm", ["bn", "mn", "mn:estimator=batch,layers=all"])
def test_same_seed_same_curve(quadrants, norm):
    torch.manual_seed(123)
    first = _train(quadrants, norm)
    torch.manual_seed(456)
    again = _train(quadrants, norm)
    assert first.accuracy == again.accuracy
    assert first.steps == again.steps == (2, 4, 6)


@pytest.mark.parametrize("norm", ["bn", "mn"])
def test_training_learns(quadrants, norm):
    run = _train(quadrants, norm, steps=30, evaluations=1)
    assert run.steps == (30,)
    assert run.accuracy[0] > 80.0, "chance is 25 %"


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [(100, 4, (25, 50, 75, 100)), (10, 4, (3, 5, 8, 10)), (2, 20, (1, 2)), (7, 1, (7,))],
)
def test_evaluation_steps(steps, evaluations, expected):
    assert evaluation_steps(Recipe(steps, evaluations=evaluations)) == expected


def test_accuracy_counts_every_image_in_eval_mode(quadrants, monkeypatch):
    monkeypatch.setattr("examples.training._EVALUATION_BATCH", 30)

    class Fixed(nn.Module):
        seen = 0

        def forward(self, x):
            assert not self.training
            self.seen += len(x)
            return torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(len(x), 4)

    model = Fixed().train()
    assert evaluate(model, quadrants) == 25.0
    assert model.seen == len(quadrants.test)
    assert model.training
