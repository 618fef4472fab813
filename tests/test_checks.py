"""Bad input: errors name the argument, its value and what was expected, before any change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mixnorm_cuda import checks
from mixnorm_cuda.functional import mixture_norm, mixture_normalize
from tests.support import problem, same_bits

DOUBLE = torch.float64


def arguments(**changes: Any) -> dict[str, Any]:
    """A valid call of `mixture_normalize` on [5, 4, 3], G = 2, K = 3, but for ``changes``."""
    p = problem((5, 4, 3), 3, 2)
    valid = {
        "x": p.x,
        **dict(zip(("mixing_weight", "mean", "var"), p.mixture, strict=True)),
        "weight": p.weight,
        "bias": p.bias,
    }
    return valid | changes


def zeros(*size: int, dtype: torch.dtype = DOUBLE, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(size, dtype=dtype, device=device)


# id: (changes, exception, parts of the message)
OF_BOTH = {
    "rank": ({"x": zeros(4)}, ValueError, ["input", "(4,)", "[N, C, *S]"]),
    "integer": (
        {"x": zeros(5, 4, 3, dtype=torch.long)},
        TypeError,
        ["input", "torch.int64", "torch.float32", "torch.float64"],
    ),
    "complex": (
        {"x": zeros(5, 4, 3, dtype=torch.complex64)},
        TypeError,
        ["input", "torch.complex64", "torch.bfloat16"],
    ),
    "eps-zero": ({"eps": 0.0}, ValueError, ["eps=0.0", "above 0"]),
    "eps-negative": ({"eps": -1e-5}, ValueError, ["eps=-1e-05", "above 0"]),
    "eps-nan": ({"eps": float("nan")}, ValueError, ["eps=nan", "above 0"]),
    "em-iters": ({"em_iters": -1}, ValueError, ["em_iters=-1", "0 or more"]),
    "backend": ({"backend": "gpu"}, ValueError, ["backend='gpu'", "'auto'", "'reference'"]),
    "weight-shape": ({"weight": zeros(5)}, ValueError, ["weight", "(5,)", "[4]", "[3, 4]"]),
    "weight-transposed": ({"weight": zeros(4, 3)}, ValueError, ["weight", "(4, 3)", "[3, 4]"]),
    "bias-shape": ({"bias": zeros(2, 4)}, ValueError, ["bias", "(2, 4)", "[4]", "[3, 4]"]),
    "weight-dtype": (
        {"weight": zeros(4, dtype=torch.float32)},
        TypeError,
        ["weight", "torch.float32", "torch.float64"],
    ),
    "bias-dtype": (
        {"bias": zeros(4, dtype=torch.float16)},
        TypeError,
        ["bias", "torch.float16", "torch.float64"],
    ),
    "weight-device": (
        {"weight": zeros(4, device="meta")},
        ValueError,
        ["weight", "meta", "cpu", "device of the input"],
    ),
    "bias-device": ({"bias": zeros(3, 4, device="meta")}, ValueError, ["bias", "meta", "cpu"]),
    "one-value": (
        {"x": zeros(1, 4, 1)},
        ValueError,
        ["input", "(1, 4, 1)", "more than 1 value per channel"],
    ),
    "one-value-rank-2": ({"x": zeros(1, 4)}, ValueError, ["(1, 4)", "more than 1 value"]),
}  # fmt: skip
# The same for θ, whose names have the prefix "running_" in `mixture_norm`.
OF_MIXTURE = {
    "mixing-weight-rank": ("weight", zeros(3), ValueError, ["(3,)", "[groups, num_components]"]),
    "no-components": ("weight", zeros(2, 0), ValueError, ["(2, 0)", "num_components"]),
    "groups": ("weight", zeros(3, 3), ValueError, ["groups=3", "divisor of the 4 channels"]),
    "no-groups": ("weight", zeros(0, 3), ValueError, ["groups=0", "divisor of the 4 channels"]),
    "components": ("mean", zeros(2, 4), ValueError, ["(2, 4)", "[3, 4]"]),
    "mean-channels": ("mean", zeros(3, 5), ValueError, ["(3, 5)", "[3, 4]", "(5, 4, 3)"]),
    "mean-rank": ("mean", zeros(4), ValueError, ["(4,)", "[3, 4]"]),
    "var-channels": ("var", zeros(3, 2), ValueError, ["(3, 2)", "[3, 4]"]),
    "weight-dtype": (
        "weight", zeros(2, 3, dtype=torch.float32), TypeError, ["torch.float32", "torch.float64"],
    ),
    "mean-dtype": (
        "mean", zeros(3, 4, dtype=torch.bfloat16), TypeError, ["torch.bfloat16", "torch.float64"],
    ),
    "var-dtype": ("var", zeros(3, 4, dtype=torch.long), TypeError, ["torch.int64"]),
    "weight-device": ("weight", zeros(2, 3, device="meta"), ValueError, ["meta", "cpu"]),
    "mean-device": ("mean", zeros(3, 4, device="meta"), ValueError, ["meta", "cpu"]),
    "var-device": ("var", zeros(3, 4, device="meta"), ValueError, ["meta", "cpu"]),
}  # fmt: skip


def check_message(caught: pytest.ExceptionInfo, parts: list[str]) -> None:
    message = str(caught.value)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(("changes", "exception", "parts"), OF_BOTH.values(), ids=OF_BOTH)
class TestBothFunctions:
    def test_mixture_normalize(self, changes, exception, parts):
        with pytest.raises(exception) as caught:
            mixture_normalize(**arguments(**changes))
        check_message(caught, parts)

    def test_mixture_norm(self, changes, exception, parts):
        check_running_unchanged(changes, exception, parts)


@pytest.mark.parametrize(
    ("name", "value", "exception", "parts"), OF_MIXTURE.values(), ids=OF_MIXTURE
)
class TestMixtureOfBothFunctions:
    def test_mixture_normalize(self, name, value, exception, parts):
        name = "mixing_weight" if name == "weight" else name
        with pytest.raises(exception) as caught:
            mixture_normalize(**arguments(**{name: value}))
        check_message(caught, parts if "groups" in parts[0] else [name, *parts])

    def test_mixture_norm(self, name, value, exception, parts):
        name = f"running_{name}"
        parts = parts if "groups" in parts[0] else [name, *parts]
        check_running_unchanged({name: value}, exception, parts)


def check_running_unchanged(changes: dict[str, Any], exception: type, parts: list[str]) -> None:
    valid = arguments()
    running = {
        "running_weight": valid.pop("mixing_weight"),
        "running_mean": valid.pop("mean"),
        "running_var": valid.pop("var"),
    }
    before = {name: t.clone() for name, t in running.items()}
    with pytest.raises(exception) as caught:
        mixture_norm(**{**valid, **running, "training": True, **changes})
    check_message(caught, parts)
    for name, original in before.items():
        assert same_bits(running[name], original)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan"), None])
def test_momentum(momentum):
    check_running_unchanged({"momentum": momentum}, ValueError, [f"momentum={momentum}", "0 to 1"])


def test_the_same_tensor_for_two_parts_of_the_mixture():
    """A check that goes by identity would take the mean for the mixing weight."""
    both = torch.full((2, 2), 0.5, dtype=DOUBLE)
    with pytest.raises(ValueError, match="mean has shape"):
        mixture_normalize(**arguments(mixing_weight=both, mean=both, var=zeros(2, 4)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_statistics_of_half_inputs_are_float32(dtype):
    half = {"x": zeros(5, 4, 3, dtype=dtype), "weight": None, "bias": None}
    single = {
        "mixing_weight": torch.full((2, 3), 1 / 3),
        "mean": zeros(3, 4, dtype=torch.float32),
        "var": torch.ones(3, 4),
    }
    mixture_normalize(**(half | single))
    with pytest.raises(TypeError, match=f"var has dtype torch.float64.*{dtype}"):
        mixture_normalize(**(half | single | {"var": torch.ones(3, 4, dtype=DOUBLE)}))
    if dtype != torch.float32:
        with pytest.raises(TypeError, match=f"mean has dtype {dtype}: expected torch.float32"):
            mixture_normalize(**(half | single | {"mean": zeros(3, 4, dtype=dtype)}))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("given", "exception", "parts"),
    [
        (zeros(5, 2), ValueError, ["(5, 2)", "[5, 3]", "[5, 3, 3]"]),
        (zeros(3, 5), ValueError, ["(3, 5)", "[5, 3]"]),
        (zeros(5, 3, 4), ValueError, ["(5, 3, 4)", "[5, 3, 3]"]),
        (zeros(5), ValueError, ["(5,)", "[5, 3]"]),
        (zeros(5, 3, dtype=torch.float32), TypeError, ["torch.float32", "torch.float64"]),
        (zeros(5, 3, dtype=torch.long), TypeError, ["torch.int64", "torch.float64"]),
        (zeros(5, 3, device="meta"), ValueError, ["meta", "cpu"]),
    ],
    ids=["components", "samples", "places", "rank", "single", "integer", "device"],
)
def test_given_responsibilities(given, exception, parts, training):
    with pytest.raises(exception) as caught:
        mixture_normalize(**arguments(responsibilities=given, training=training))
    check_message(caught, ["responsibilities", *parts])


def test_given_responsibilities_leave_nothing_to_em():
    with pytest.raises(ValueError, match=r"em_iters=2: expected 0 with given responsibilities"):
        mixture_normalize(**arguments(responsibilities=zeros(5, 3), em_iters=2))


NONE = {"mixing_weight": None, "mean": None, "var": None}


@pytest.mark.parametrize(
    "changes",
    [
        NONE,
        {"mean": None, "responsibilities": zeros(5, 3)},
        {**NONE, "responsibilities": zeros(5, 3), "training": False},
    ],
    ids=["nothing-given", "only-one", "eval"],
)
def test_no_mixture(changes):
    with pytest.raises(ValueError, match="mixing_weight, mean and var: expected three tensors"):
        mixture_normalize(**arguments(**changes))


@pytest.mark.parametrize("given", [zeros(5), zeros(5, 0)], ids=str)
def test_no_mixture_and_responsibilities_without_components(given):
    with pytest.raises(ValueError, match=r"responsibilities has shape .*expected \[N, K\]"):
        mixture_normalize(**arguments(**NONE, weight=None, bias=None, responsibilities=given))


@pytest.mark.parametrize("name", ["mixing_weight", "mean", "var"])
def test_no_gradient_through_em_steps(name):
    learned = arguments()
    learned[name].requires_grad_()
    with pytest.raises(ValueError, match=r"em_iters=1: expected 0 when .*requires grad"):
        mixture_normalize(**learned, em_iters=1)
    with torch.no_grad():
        mixture_normalize(**learned, em_iters=1)


def test_one_value_per_channel_is_enough_in_eval():
    y, _ = mixture_normalize(**arguments(x=zeros(1, 4, 1), training=False))
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("check", "parts"),
    [
        (lambda: checks.check_rank(zeros(5, 4), (3, 4)), ["(5, 4)", "3D or 4D", "got 2D"]),
        (lambda: checks.check_components(0), ["num_components=0", "1 or more"]),
        (lambda: checks.check_groups(3, 4), ["groups=3", "4 channels"]),
        (lambda: checks.check_groups(-2, 4), ["groups=-2", "4 channels"]),
        (lambda: checks.check_momentum(2.0), ["momentum=2.0", "0 to 1", "None"]),
        (
            lambda: checks.check_choice("estimator", "onlin", ("online", "batch")),
            ["estimator='onlin'", "'online', 'batch'"],
        ),
    ],
    ids=["rank", "components", "groups", "groups-negative", "momentum", "choice"],
)
def test_checks_of_the_layers(check: Callable[[], None], parts):
    with pytest.raises(ValueError, match="expected") as caught:
        check()
    check_message(caught, parts)


def test_what_the_checks_let_through():
    checks.check_momentum(None)
    checks.check_momentum(0)
    checks.check_momentum(1)
    checks.check_groups(4, 4)
    checks.check_rank(zeros(5, 4), (2, 3))
    checks.check_enough_values(zeros(0, 4))
    checks.check_enough_values(zeros(2, 4))
