"""DCGAN's training, resumable after any step, and what is measured of its images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from examples.batches import Batches
from examples.data import ImageData
from examples.features import Features, effective_classes, frechet_distance
from examples.models.dcgan import NOISE, Discriminator, Generator
from examples.norms import Norm
from mixnorm_cuda import GaussianMixture
from mixnorm_cuda.metrics import mixture_distance, wasserstein_mixture

COMPONENTS = 5
_BATCH = 500


@dataclass(frozen=True)
class GanRecipe:
    """DCGAN's: Adam with β₁ = 0.5 for both networks."""

    steps: int
    batch_size: int = 128
    learning_rate: float = 2e-4
    width: float = 1.0
    norm: str = "bn"
    seed: int = 0
    evaluations: int = 10
    samples: int = 5000


@dataclass(frozen=True)
class GanEvaluation:
    """``frechet`` and ``wam``: distances on a classifier's features between real and generated
    images; ``classes``: the effective number of classes among the latter, by the classifier.
    """

    step: int
    generator_loss: float
    discriminator_loss: float
    frechet: float
    wam: float
    classes: float


def check(data: ImageData, recipe: GanRecipe) -> None:
    """Raise now what would otherwise be raised when a classifier has been trained.

    Raises:
        ValueError: images of another size, too few of them, or a norm that does not fit.
        ImportError: POT is not installed.
    """
    _check_size(data)
    _check_samples(data, recipe.samples)
    with torch.device("meta"):
        Norm.parse(recipe.norm).apply(Generator(data.channels, recipe.width))
    two_points = torch.tensor([[0.0], [1.0]])
    wasserstein_mixture(two_points, two_points, 1)


def _check_size(data: ImageData) -> None:
    size = tuple(data.train.images.shape[2:])
    if size != (32, 32):
        raise ValueError(f"images are {size[0]}×{size[1]}: DCGAN here expects 32×32")


def _check_samples(data: ImageData, samples: int) -> int:
    count = len(data.train)
    if 2 * samples > count:
        raise ValueError(
            f"samples={samples}: expected at most {count // 2}, half the training images, so "
            "that real images can be set against other real ones"
        )
    return count


class Judge:
    """Compares generated images with ``samples`` real ones; ``floor`` is other real ones' score."""

    def __init__(self, features: Features, data: ImageData, samples: int) -> None:
        count = _check_samples(data, samples)
        self.classes = len(data.classes)
        self._features = features
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        halves = (order[:samples], order[samples : 2 * samples])
        device = data.train.images.device
        self.real, others = (data.train.images[half.to(device)] for half in halves)
        self._real = features(self.real)[0]
        self._mixture = _fit(self._real)
        self.floor = self.scores(others)

    def scores(self, images: Tensor) -> dict[str, float]:
        features, classes = self._features(images)
        return {
            "frechet": frechet_distance(self._real, features),
            "wam": mixture_distance(self._mixture, _fit(features)),
            "classes": effective_classes(classes, self.classes),
        }

    def histogram(self, images: Tensor) -> list[float]:
        """The share of each class, by the classifier."""
        _, classes = self._features(images)
        return (torch.bincount(classes, minlength=self.classes) / len(classes)).tolist()


def _fit(features: Tensor) -> GaussianMixture:
    with warnings.catch_warnings():
        # A step limit that ends a fit is part of the measure, the same for all.
        warnings.filterwarnings("ignore", "GaussianMixture did not converge")
        return GaussianMixture(COMPONENTS, random_state=0, reg_covar=1e-4).fit(features)


class GanTraining:
    """``data``: 32×32 images on the device to train on."""

    def __init__(self, data: ImageData, recipe: GanRecipe, judge: Judge) -> None:
        _check_size(data)
        device = data.train.images.device
        torch.manual_seed(recipe.seed)
        self.generator = Generator(data.channels, recipe.width)
        self._discriminator = Discriminator(data.channels, recipe.width).to(device)
        Norm.parse(recipe.norm).apply(self.generator)
        self.generator.to(device)
        self.recipe = recipe
        self.evaluations: list[GanEvaluation] = []
        self.step = 0
        self._data = data
        self._judge = judge
        rate = recipe.learning_rate
        self._optimizers = [
            torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.999))
            for network in (self.generator, self._discriminator)
        ]
        self._batches = Batches(len(data.train), recipe.batch_size, recipe.seed)
        self._noise = torch.Generator().manual_seed(recipe.seed)
        self._losses = torch.zeros(2, device=device)
        parts = recipe.evaluations
        self._due = {-(-part * recipe.steps // parts) for part in range(1, parts + 1)}

    @property
    def ended(self) -> bool:
        return self.step >= self.recipe.steps

    def advance(self) -> GanEvaluation | None:
        """One step of the discriminator, one of the generator; the evaluation if one was due."""
        data = self._data
        index = next(self._batches).to(data.train.images.device)
        real = data.train.images[index].float() / 127.5 - 1.0
        fake = self.generator(self._draw(len(real), self._noise))
        on_real, on_fake = self._discriminator(real), self._discriminator(fake.detach())
        loss = _binary(on_real, 1.0) + _binary(on_fake, 0.0)
        self._optimize(1, loss)
        self._optimize(0, _binary(self._discriminator(fake), 1.0))
        self.step += 1
        return self._evaluate() if self.step in self._due else None

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """uint8 images from noise that is always the same, by the generator in eval mode."""
        noise = torch.Generator().manual_seed(0)
        self.generator.eval()
        parts = []
        for start in range(0, count, _BATCH):
            images = self.generator(self._draw(min(_BATCH, count - start), noise))
            parts.append(((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8))
        self.generator.train()
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "networks": [n.state_dict() for n in (self.generator, self._discriminator)],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "batches": self._batches.state_dict(),
            "noise": self._noise.get_state(),
            "torch": torch.get_rng_state(),
            "losses": self._losses,
            "evaluations": [vars(evaluation) for evaluation in self.evaluations],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        networks: tuple[nn.Module, ...] = (self.generator, self._discriminator)
        for network, saved in zip(networks, state["networks"], strict=True):
            network.load_state_dict(saved)
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._batches.load_state_dict(state["batches"])
        self._noise.set_state(state["noise"])
        torch.set_rng_state(state["torch"])
        self._losses.copy_(state["losses"])
        self.step = state["step"]
        self.evaluations = [GanEvaluation(**entry) for entry in state["evaluations"]]

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(count, NOISE, generator=generator)
        return noise.to(self._data.train.images.device)

    def _optimize(self, which: int, loss: Tensor) -> None:
        optimizer = self._optimizers[which]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        self._losses[which] += loss.detach()

    def _evaluate(self) -> GanEvaluation:
        since = self.step - (self.evaluations[-1].step if self.evaluations else 0)
        generator_loss, discriminator_loss = (self._losses / since).tolist()
        scores = self._judge.scores(self.sample(self.recipe.samples))
        self._losses.zero_()
        evaluation = GanEvaluation(self.step, generator_loss, discriminator_loss, **scores)
        self.evaluations.append(evaluation)
        return evaluation


def _binary(logits: Tensor, target: float) -> Tensor:
    targets = torch.full_like(logits, target)
    return nn.functional.binary_cross_entropy_with_logits(logits, targets)
