"""The declared studies."""

from __future__ import annotations

from examples.study.grid import Question, Study
from examples.training import Recipe

AS_BN = "mn:component_affine=True,affine_init=batchnorm"
PER_CHANNEL = "mn:groups=C"
DETACHED = "mn:responsibility_grad=False"
AS_BN_DETACHED = f"{AS_BN},responsibility_grad=False"


def _screening_questions(group_norm: str, some_groups: str) -> tuple[Question, ...]:
    """What the layer's options do on the 5-layer CNN, the most telling questions first."""
    core = ("mn", AS_BN, PER_CHANNEL, DETACHED, group_norm, "mode")
    return (
        Question("norms", "Does the mixture train better than its peers?", core),
        Question(
            "learning-rate",
            "And at a high learning rate?",
            ("mn", AS_BN, PER_CHANNEL, DETACHED),
            learning_rates=(0.005,),
        ),
        Question(
            "estimator",
            "Where does the mixture come from, and does the gradient pass through its use?",
            ("mn", DETACHED, "mn:estimator=batch", AS_BN_DETACHED),
            learning_rates=(0.001, 0.005),
        ),
        Question(
            "affine",
            "1/√λ or not; γ and β shared or per component, started at ones or as BN?",
            ("mn", "mn:mixing_scale=False", "mn:component_affine=True", AS_BN),
        ),
        Question("components", "How many components?", ("mn:k=2", "mn", "mn:k=5")),
        Question(
            "layers",
            "Which layers?",
            ("mn", "mn:layers=1", "mn:layers=all", f"{AS_BN},layers=all"),
        ),
        Question(
            "small-batches",
            "And with small batches?",
            ("mn", AS_BN, group_norm),
            batch_sizes=(16,),
        ),
        Question(
            "groups",
            "Which channels share responsibilities?",
            ("mn", some_groups, PER_CHANNEL, f"{AS_BN},groups=C"),
        ),
        Question(
            "momentum",
            "Should the running statistics follow faster?",
            ("mn", "mn:momentum=0.3", AS_BN_DETACHED, f"{AS_BN_DETACHED},momentum=0.3"),
            learning_rates=(0.001, 0.005),
        ),
    )


# The paper's setting in full: for a GPU.
SCREENING = Study(
    name="screening",
    text="5-layer CNN at full width, CIFAR-10 in full",
    questions=(
        *_screening_questions("gn", "mn:groups=C/16"),
        Question(
            "more-layers", "And which others?", ("mn:layers=3", "mn:layers=4", "mn:layers=2+3")
        ),
        Question(
            "em-steps",
            "How many EM steps?",
            (
                *(f"mn:em_iters={steps}" for steps in (1, 2)),
                *(f"mn:estimator=batch,em_iters={steps}" for steps in (1, 2, 5)),
            ),
        ),
        Question(
            "more-rates",
            "Over the paper's range of learning rates?",
            ("mn", AS_BN),
            learning_rates=(0.002, 0.01),
        ),
        Question(
            "sgd",
            "And with SGD?",
            ("mn", AS_BN, "gn"),
            learning_rates=(0.01, 0.05),
            optimizer="sgd",
        ),
    ),
    recipe=Recipe(
        steps=12_000, batch_size=256, evaluations=60, augmentation="crop-flip"
    ),
)  # fmt: skip

NETWORKS = Study(
    name="networks",
    text="the screening's best settings on larger networks",
    questions=tuple(
        Question(
            model, f"{model}: does it carry over?", ("mn", DETACHED, AS_BN_DETACHED), model=model
        )
        for model in ("resnet20", "resnet56", "densenet40", "densenet100", "inception")
    ),
    recipe=Recipe(
        steps=20_000, batch_size=256, evaluations=40, schedule="cosine", augmentation="crop-flip"
    ),
)

# The same questions small enough for a CPU. At 16 pixels a crop after padding by 4 would hide much
# of an image, and in one epoch nothing is seen twice: no augmentation.
CPU_SCREENING = Study(
    name="cpu-screening",
    text="5-layer CNN at a quarter of its width, CIFAR-10 averaged to 16×16, 400 steps",
    questions=(
        *_screening_questions("gn:groups=C/4", "mn:groups=C/4"),
        Question(
            "em-steps",
            "How many EM steps?",
            ("mn", "mn:em_iters=1", "mn:em_iters=2", "mn:estimator=batch"),
            learning_rates=(0.001, 0.005),
        ),
        Question(
            "sgd",
            "And with SGD?",
            ("mn", AS_BN_DETACHED),
            learning_rates=(0.01, 0.05),
            optimizer="sgd",
        ),
    ),
    recipe=Recipe(steps=400, batch_size=128, evaluations=8),
    width=0.25,
    size=16,
    test_per_class=500,
)

STUDIES = {study.name: study for study in (SCREENING, NETWORKS, CPU_SCREENING)}
