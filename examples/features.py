"""A classifier of ours as the eye that judges generated images, and distances in what it sees."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from examples import checkpoint, runs
from examples.data import ImageData
from examples.training import Recipe

_BATCH = 500


class Features:
    """The penultimate layer and the classes of a classifier that ``examples.train`` saved.

    Raises:
        checkpoint.CheckpointError: no such checkpoint, or one that was trained on other data.
    """

    def __init__(self, path: Path, data: ImageData) -> None:
        configuration, state = checkpoint.read(path)
        names = ("model", "width", "norm", "learning_rate", "seed")
        recipe = Recipe(steps=configuration["steps"])
        spec = runs.Spec(**{name: configuration[name] for name in names}, recipe=recipe)
        asked = runs.configuration(spec, data)
        for key in ("data", "channel_means"):
            if configuration[key] != asked[key]:
                raise checkpoint.CheckpointError(
                    f"{path}: a classifier of {key} {configuration[key]!r}; expected {asked[key]!r}"
                )
        self.name = f"{spec.model}, width {spec.width:g}, {state['step']} steps"
        self.accuracy: float = state["evaluations"][-1]["accuracy"]
        self._data = data
        self._model = spec.build(data).eval().requires_grad_(False)
        self._model.load_state_dict(state["model"])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images -> (features ``[N, C]`` float64, classes ``[N]``), on the CPU."""
        captured: list[Tensor] = []
        head = self._model.get_submodule("classifier")
        handle = head.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
        try:
            parts = torch.split(images, _BATCH)
            logits = torch.cat([self._model(self._data.normalize(part)) for part in parts])
        finally:
            handle.remove()
        return torch.cat(captured).double().cpu(), logits.argmax(dim=1).cpu()


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Between Gaussians fitted to two sets ``[n, C]`` and ``[m, C]``, in float64:

        ‖μ − μ'‖² + tr(Σ + Σ' − 2 (Σ^½ Σ' Σ^½)^½)

    FID is this distance on the features of one Inception network; on others it is another number.
    """
    first, second = features_a.double(), features_b.double()
    covariances = [_covariance(features) for features in (first, second)]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0)
    means = (first.mean(0) - second.mean(0)).square().sum()
    traces = covariances[0].trace() + covariances[1].trace()
    return float(means + traces - 2.0 * product.sqrt().sum())


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def effective_classes(classes: Tensor, count: int) -> float:
    """exp of the entropy of the histogram: ``count`` when all are equally frequent, 1 for one."""
    share = torch.bincount(classes, minlength=count).double() / len(classes)
    return float(torch.special.entr(share).sum().exp())


def save_images(images: Tensor, path: Path, per_row: int = 10) -> None:
    """uint8 ``[N, 1 or 3, H, W]`` as one picture, row by row."""
    from PIL import Image

    count, channels, height, width = images.shape
    rows = count // per_row
    grid = images[: rows * per_row].view(rows, per_row, channels, height, width)
    grid = grid.permute(0, 3, 1, 4, 2).reshape(rows * height, per_row * width, channels)
    Image.fromarray(grid.cpu().squeeze(2).numpy()).save(path)


def inception_fid(real: Tensor, generated: Tensor) -> float:
    """FID of uint8 ``[N, 3, H, W]`` images by torchmetrics.

    Raises:
        RuntimeError: torchmetrics, or its Inception weights, cannot be had here.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric: nn.Module = FrechetInceptionDistance(feature=2048)
        for images, is_real in ((real, True), (generated, False)):
            for part in torch.split(images.cpu(), _BATCH):
                metric.update(part, real=is_real)  # type: ignore[operator]
        return float(metric.compute())  # type: ignore[operator]
    except (ImportError, OSError) as error:
        raise RuntimeError(
            f"FID needs torchmetrics[image] and the weights that it downloads ({error})"
        ) from error
