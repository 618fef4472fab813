"""``python -m examples.adversarial``: clean and adversarial images in one batch.

Half of every batch's loss is that of the images, half that of the same images after an attack
(PGD) on the network as it is. The two halves are two domains, which a normalization may mix (bn),
be told apart (domain: one normalization per domain, as in Xie et al., *Adversarial Examples Improve
Image Recognition*, CVPR 2020), or tell apart by itself (mn). Resumes as ``examples.train`` does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from examples import arguments, runs
from examples.attack import Attack
from examples.batches import AUGMENTATIONS
from examples.data import load
from examples.layers import DomainNorm2d, set_domain
from examples.training import Evaluation, Recipe, Training, chunks, evaluate

CLEAN, ADVERSARIAL = 0, 1


@dataclass(frozen=True)
class AdversarialRecipe(Recipe):
    """``test_attack_steps``: the attack that robust accuracy is measured under."""

    radius: float = 8.0
    attack_steps: int = 5
    test_attack_steps: int = 20


@dataclass(frozen=True)
class AdversarialEvaluation(Evaluation):
    """``robust``: percent right under attack; ``blind``: with the clean domain's normalization.

    ``blind`` differs from ``robust`` only for norm ``domain``: at test time nobody tells a network
    which images were attacked, so its ``robust`` is what knowing would give.
    """

    robust: float
    blind: float


class AdversarialTraining(Training):
    evaluation_type: type[Evaluation] = AdversarialEvaluation

    def __init__(
        self, model: nn.Module, data: Any, recipe: Recipe, learning_rate: float, seed: int
    ) -> None:
        super().__init__(model, data, recipe, learning_rate, seed)
        assert isinstance(recipe, AdversarialRecipe)
        self._attack = Attack(recipe.radius, recipe.attack_steps)
        self._test_attack = Attack(recipe.radius, recipe.test_attack_steps)
        self._starts = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"starts": self._starts.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._starts.set_state(state["starts"])

    def _loss_of(self, images: Tensor, labels: Tensor) -> Tensor:
        attacked = self._attacked(self._attack, images, labels, ADVERSARIAL, self._starts)
        domain = torch.cat([torch.full_like(labels, d) for d in (CLEAN, ADVERSARIAL)])
        set_domain(self.model, domain)
        logits = self.model(torch.cat([images, attacked]))
        return nn.functional.cross_entropy(logits, torch.cat([labels, labels]))

    def _attacked(
        self, attack: Attack, images: Tensor, labels: Tensor, domain: int, starts: torch.Generator
    ) -> Tensor:
        set_domain(self.model, torch.full_like(labels, domain))
        start = 2.0 * torch.rand(images.shape, generator=starts) - 1.0
        return attack(self.model, self._data, images, labels, start.to(images.device))

    def _measure(self) -> dict[str, float]:
        robust = self._robust_accuracy(ADVERSARIAL)
        told = any(isinstance(module, DomainNorm2d) for module in self.model.modules())
        blind = self._robust_accuracy(CLEAN) if told else robust
        return {"accuracy": self._clean_accuracy(), "robust": robust, "blind": blind}

    def _clean_accuracy(self) -> float:
        def mark(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            (x,) = inputs
            set_domain(model, torch.full((len(x),), CLEAN, device=x.device))

        handle = self.model.register_forward_pre_hook(mark)
        try:
            return evaluate(self.model, self._data)
        finally:
            handle.remove()

    def _robust_accuracy(self, domain: int) -> float:
        """Attacked with the normalization of ``domain``, and classified with it."""
        starts = torch.Generator().manual_seed(0)  # the same for every network and evaluation
        correct = 0
        was_training = self.model.training
        self.model.eval()
        for images, labels in chunks(self._data.test):
            x = self._data.normalize(images)
            attacked = self._attacked(self._test_attack, x, labels, domain, starts)
            with torch.no_grad():
                correct += int((self.model(attacked).argmax(dim=1) == labels).sum())
        self.model.train(was_training)
        return 100.0 * correct / len(self._data.test)


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    torch.backends.cudnn.deterministic = True  # the same seed gives the same curve
    recipe = AdversarialRecipe(
        args.steps,
        args.batch_size,
        args.weight_decay,
        args.evaluations,
        augmentation=args.augmentation,
        radius=args.radius,
        attack_steps=args.attack_steps,
        test_attack_steps=args.test_attack_steps,
    )
    spec = runs.Spec(args.model, args.width, args.norm, args.learning_rate, args.seed, recipe)
    try:
        device = torch.device(args.device)
        data = load(args.data, download_to=args.download_to)
        data = data.reduced(args.per_class, args.size, args.test_per_class).to(device)
        arguments.prepare_folder(args.out)
        training = runs.open_training(args.out, spec, data, AdversarialTraining)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    print(f"{spec.model} (width {spec.width:g}), {spec.norm}, on {data.describe()}", flush=True)
    stop = arguments.Stop(args.minutes)
    with tqdm(initial=training.step, total=recipe.steps, unit=" steps", disable=None) as bar:

        def on_step(latest: Evaluation | None) -> None:
            bar.update()

        runs.advance(args.out, training, spec, data, stop=stop, on_step=on_step, tensorboard=True)
    if not training.ended:
        print(f"stopped after step {training.step} of {recipe.steps}: the same command goes on")
        return 130 if stop.interrupted else 0
    last = training.evaluations[-1]
    assert isinstance(last, AdversarialEvaluation)
    print(
        f"clean {last.accuracy:.2f} %, robust {last.robust:.2f} % (PGD-{args.test_attack_steps}, "
        f"{args.radius:g}/255), robust by the clean domain's norm {last.blind:.2f} %\n"
        f"saved {args.out / runs.CHECKPOINT}, {args.out / runs.LOG}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.adversarial",
        description="Train on clean and attacked images in one batch. Called again, it goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    arguments.add_classifier(
        parser,
        norm="bn",
        norm_help="as in examples.train, and domain: one BN per domain",
        batch_size=128,
        steps=8000,
    )
    add, positive = parser.add_argument, arguments.positive
    add("--weight-decay", type=float, default=1e-4, help="AdamW's")
    add("--augmentation", choices=AUGMENTATIONS, default="crop-flip", help="of training images")
    add("--radius", type=positive(float), default=8.0, help="of the attack, in gray levels")
    add("--attack-steps", type=positive(int), default=5, help="of the attack in training")
    add("--test-attack-steps", type=positive(int), default=20, help="of the attack in evaluations")
    arguments.add_resumable(parser, evaluations=10)
    return parser


if __name__ == "__main__":
    sys.exit(main())
