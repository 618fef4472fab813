"""Projected gradient descent against a classifier (Madry et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.data import ImageData


@dataclass(frozen=True)
class Attack:
    """At most ``radius`` gray levels (of 255) per pixel, in ``steps`` steps of ``2.5/steps`` of it.

    With one step: the fast gradient sign method, a step of ``radius``.
    """

    radius: float = 8.0
    steps: int = 5

    def __call__(
        self, model: nn.Module, data: ImageData, x: Tensor, labels: Tensor, start: Tensor
    ) -> Tensor:
        """Move normalized images ``x`` so that ``model``, in eval mode, errs.

        The statistics of the model stay as they are; its mode is restored. ``start`` ``[N, C, H,
        W]`` in [−1, 1] is where in the ball the search begins.
        """
        radius = self.radius / data.std
        low, high = data.normalize(torch.zeros_like(data.mean)), (255.0 - data.mean) / data.std
        size = radius * min(1.0, 2.5 / self.steps)
        was_training = model.training
        model.eval()
        adversarial = (x + radius * start).clamp(low, high)
        for _ in range(self.steps):
            adversarial.requires_grad_(True)
            loss = nn.functional.cross_entropy(model(adversarial), labels)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = adversarial.detach() + size * gradient.sign()
            adversarial = torch.minimum(torch.maximum(adversarial, x - radius), x + radius)
            adversarial = adversarial.clamp(low, high)
        model.train(was_training)
        return adversarial
