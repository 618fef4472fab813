"""GaussianMixture against scikit-learn's with diagonal covariances."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Sklearn
from torch import Tensor

import mixnorm_cuda as mx
from tests.support import assert_close


def blobs(n: int = 400, components: int = 3, channels: int = 4, overlap: float = 1.0) -> Tensor:
    """Rows around random centres, every component of another width and share, in float64."""
    share = torch.arange(1, components + 1, dtype=torch.float64)
    component = torch.multinomial(share, n, replacement=True)
    centres = 4 * torch.randn(components, channels, dtype=torch.float64)
    width = overlap * (0.5 + torch.rand(components, channels, dtype=torch.float64))
    noise = torch.randn(n, channels, dtype=torch.float64)
    return centres[component] + width[component] * noise


def initial(x: Tensor, components: int) -> dict[str, Tensor]:
    weights = torch.rand(components, dtype=torch.float64) + 0.5
    return {
        "weights_init": weights / weights.sum(),
        "means_init": x[torch.randperm(len(x))[:components]],
        "precisions_init": torch.rand(components, x.shape[1], dtype=torch.float64) + 0.1,
    }


def sklearn_fit(x: Tensor, components: int, **options: Any) -> Sklearn:
    options = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Sklearn(components, covariance_type="diag", **options).fit(x.numpy())


def same(ours: Tensor, theirs: np.ndarray, tolerance: float = 1e-8) -> None:
    assert_close(ours, torch.from_numpy(np.asarray(theirs)), tolerance)


CASES = [
    {"components": 1, "channels": 3},
    {"components": 2, "channels": 1},
    {"components": 3, "channels": 4},
    {"components": 4, "channels": 8, "overlap": 3.0},
    {"components": 6, "channels": 2, "n": 1000},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("reg_covar", [1e-6, 0.1])
def test_fit_from_the_same_start(case: dict[str, Any], reg_covar: float) -> None:
    X = blobs(**case) + 10
    k = case["components"]
    options = {"tol": 1e-6, "max_iter": 300, "reg_covar": reg_covar, **initial(X, k)}
    theirs = sklearn_fit(X, k, **options)
    ours = mx.GaussianMixture(k, **options)
    assert ours.fit(X) is ours
    same(ours.weights_, theirs.weights_)
    same(ours.means_, theirs.means_)
    same(ours.covariances_, theirs.covariances_)
    same(ours.precisions_, theirs.precisions_)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-10)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ is theirs.converged_ is True
    new = blobs(50, channels=case["channels"]) + 10
    same(ours.score_samples(new), theirs.score_samples(new.numpy()))
    same(ours.predict_proba(new), theirs.predict_proba(new.numpy()))
    assert (ours.predict(new).numpy() == theirs.predict(new.numpy())).all()
    assert ours.score(new) == pytest.approx(theirs.score(new.numpy()), rel=1e-8)
    assert ours.score_samples(new).shape == (50,)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_step_from_the_same_start(steps: int) -> None:
    X = blobs()
    options = {"tol": 0.0, "max_iter": steps, **initial(X, 3)}
    theirs = sklearn_fit(X, 3, **options)
    ours = mx.GaussianMixture(3, **options)
    with pytest.warns(UserWarning, match=f"did not converge in max_iter={steps} steps"):
        ours.fit(X)
    same(ours.weights_, theirs.weights_, 1e-10)
    same(ours.means_, theirs.means_, 1e-10)
    same(ours.covariances_, theirs.covariances_, 1e-10)
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_) == (steps, False)


def test_start_with_an_empty_component() -> None:
    """A weight of zero is allowed at the start, as in scikit-learn, and stays out of the way."""
    X = blobs()
    options = {**initial(X, 2), "weights_init": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    ours = mx.GaussianMixture(2, **options).fit(X)
    single = mx.GaussianMixture(1).fit(X)
    assert ours.score(X) >= single.score(X) - 1e-6
    assert ours.means_.isfinite().all()


# What the best of eight fits may fall short by, as a share of scikit-learn's gain over one
# component. Where all fits end in one optimum, EM stops within tol = 1e-4 a step of it; the digits
# have many optima.
DATA_SETS = {"blobs": 1e-3, "overlapping": 0.01, "iris": 1e-3, "wine": 1e-3, "digits": 0.05}


def data_set(name: str) -> tuple[Tensor, int]:
    from sklearn import datasets

    if name == "blobs":
        return blobs(600, 4, 3), 4
    if name == "overlapping":
        return blobs(800, 3, 6, overlap=4.0), 3
    X = torch.from_numpy(getattr(datasets, f"load_{name}")().data)
    if name == "digits":
        # Pixels that never change have no scale of their own.
        X = X[:600, X.std(0) > 1]
        return X + 0.1 * torch.randn_like(X), 4
    return (X - X.mean(0)) / X.std(0), 3


@pytest.mark.parametrize("name", DATA_SETS)
def test_reaches_the_likelihood_of_scikit_learn(name: str) -> None:
    """From its own seeds: the best of eight fits of each."""
    X, k = data_set(name)
    options = {"n_init": 8, "random_state": 0, "tol": 1e-4, "max_iter": 500, "reg_covar": 1e-3}
    theirs = sklearn_fit(X, k, init_params="k-means++", **options).score(X.numpy())
    ours = mx.GaussianMixture(k, **options).fit(X).score(X)
    single = mx.GaussianMixture(1, reg_covar=1e-3).fit(X).score(X)
    assert ours >= theirs - DATA_SETS[name] * (theirs - single)


@pytest.mark.parametrize("init_params", ["k-means++", "random"])
def test_recovers_blobs(init_params: str) -> None:
    centres = torch.tensor([[0.0, 0], [20, 0], [0, 20]], dtype=torch.float64)
    component = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 3000, replacement=True)
    X = centres[component] + torch.randn(3000, 2, dtype=torch.float64)
    model = mx.GaussianMixture(3, init_params=init_params, n_init=5, random_state=1).fit(X)
    order = torch.cdist(centres, model.means_).argmin(1)
    assert order.unique().numel() == 3
    assert (model.means_[order] - centres).abs().max() < 0.2
    assert (model.weights_[order] - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 0.05
    assert (model.covariances_ - 1).abs().max() < 0.2
    assert torch.equal(order[component], model.predict(X))
    assert model.weights_.sum().item() == pytest.approx(1)


def test_more_starts_are_no_worse() -> None:
    X = blobs(500, 8, 2)
    options = {"init_params": "random", "max_iter": 300, "random_state": 2}
    bounds = [mx.GaussianMixture(8, n_init=n, **options).fit(X).lower_bound_ for n in (1, 6)]
    assert bounds[1] > bounds[0] + 1e-3


def test_lower_bound_is_the_likelihood() -> None:
    """At convergence it is `score` before the last M-step, which gains less than tol."""
    X = blobs()
    model = mx.GaussianMixture(3, tol=1e-8, max_iter=1000).fit(X)
    assert 0 <= model.score(X) - model.lower_bound_ < 1e-7


def test_one_component_is_the_sample_mean_and_variance() -> None:
    X = blobs() + 100
    model = mx.GaussianMixture(1, reg_covar=1e-3).fit(X)
    assert_close(model.means_[0], X.mean(0), 1e-12)
    assert_close(model.covariances_[0], X.var(0, correction=0) + 1e-3, 1e-12)
    normal = torch.distributions.Normal(model.means_[0], model.covariances_[0].sqrt())
    assert_close(model.score_samples(X), normal.log_prob(X).sum(1), 1e-10)
    assert torch.equal(model.weights_, torch.ones(1, dtype=torch.float64))


def test_float32() -> None:
    X = blobs()
    options = initial(X, 3)
    exact = mx.GaussianMixture(3, tol=1e-3, **options).fit(X)
    model = mx.GaussianMixture(3, tol=1e-3, **options).fit(X.float())
    assert model.means_.dtype == model.weights_.dtype == model.covariances_.dtype == torch.float32
    assert_close(model.means_, exact.means_, 1e-4)
    assert_close(model.covariances_, exact.covariances_, 1e-3)
    assert model.predict_proba(X.float()).dtype == torch.float32
    assert_close(model.predict_proba(X).float(), exact.predict_proba(X).float(), 1e-2)


def test_input_forms() -> None:
    """Strides and gradients of X do not matter; X is left alone."""
    X = blobs()
    options = {"random_state": 3}
    expected = mx.GaussianMixture(3, **options).fit(X)
    wide = torch.zeros(X.shape[0], 8, dtype=X.dtype)
    wide[:, ::2] = X
    for other in (X.t().contiguous().t(), wide[:, ::2], X.clone().requires_grad_()):
        before = other.detach().clone()
        model = mx.GaussianMixture(3, **options).fit(other)
        assert_close(model.means_, expected.means_, 1e-10)
        assert not model.means_.requires_grad
        assert not model.score_samples(other).requires_grad
        assert torch.equal(other.detach(), before)
    assert mx.GaussianMixture(3, **options).fit(X, None).score(X, None) == expected.score(X)


def test_probabilities() -> None:
    X = blobs(overlap=3.0)
    model = mx.GaussianMixture(3).fit(X)
    proba = model.predict_proba(X)
    assert proba.shape == (400, 3)
    assert_close(proba.sum(1), torch.ones(400, dtype=torch.float64), 1e-12)
    assert (proba >= 0).all()
    assert torch.equal(proba.argmax(1), model.predict(X))
    # Far from everything the densities underflow; the posterior does not.
    assert model.predict_proba(X[:1] + 1e4).isfinite().all()
    assert model.score_samples(X[:1] + 1e4).item() < -1e6


def test_sample() -> None:
    model = mx.GaussianMixture(3, random_state=0).fit(blobs())
    X, component = model.sample(20_000)
    assert X.shape == (20_000, 4)
    assert component.shape == (20_000,)
    assert X.dtype == torch.float64
    assert torch.equal(component, component.sort().values)
    for k in range(3):
        rows = X[component == k]
        n = len(rows)
        # Five standard errors of a share, a mean and a variance.
        share = model.weights_[k].item()
        assert abs(n / 20_000 - share) < 5 * math.sqrt(share * (1 - share) / 20_000)
        std = model.covariances_[k].sqrt()
        assert ((rows.mean(0) - model.means_[k]).abs() < 5 * std / math.sqrt(n)).all()
        assert ((rows.var(0) / std.square() - 1).abs() < 5 * math.sqrt(2 / n)).all()
    assert model.sample()[0].shape == (1, 4)


def test_random_state() -> None:
    X = blobs(overlap=3.0)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    models = [mx.GaussianMixture(5, random_state=s, max_iter=200).fit(X) for s in (1, 1, 2)]
    drawn = [model.sample(5)[0] for model in models]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(models[0].means_, models[1].means_)
    assert not torch.allclose(models[0].means_, models[2].means_)
    assert torch.equal(drawn[0], drawn[1])
    # Without one, torch's own generator is drawn from, and its seed reproduces.
    fits = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        model = mx.GaussianMixture(5, max_iter=200).fit(X)
        fits.append((model.means_, model.sample(5)[0]))
        assert not torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(fits[0], fits[1], strict=True))
    assert not torch.allclose(fits[0][0], fits[2][0])


def test_refit_replaces_everything() -> None:
    model = mx.GaussianMixture(2, random_state=0)
    X = blobs()
    first = model.fit(X).means_
    model.fit(X + 100)
    assert (model.means_ - first).abs().max() > 50
    assert model.fit(blobs(channels=7)).means_.shape == (2, 7)


def test_large_offset() -> None:
    """|mean| / std of 1e4 in float32: sums are centred on the data."""
    X = blobs(overlap=1.0)
    options = initial(X, 3)
    exact = mx.GaussianMixture(3, **options).fit(X)
    shifted = {**options, "means_init": options["means_init"] + 1e4}
    model = mx.GaussianMixture(3, **shifted).fit((X + 1e4).float())
    assert (model.means_.double() - 1e4 - exact.means_).abs().max() < 0.01
    assert_close(model.covariances_, exact.covariances_, 0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components=0: expected 1 or more"),
        ({"tol": -1.0}, "tol=-1.0: expected 0 or more"),
        ({"tol": float("nan")}, "tol=nan"),
        ({"reg_covar": 0.0}, "reg_covar=0.0: expected a number above 0"),
        ({"max_iter": 0}, "max_iter=0: expected 1 or more"),
        ({"n_init": 0}, "n_init=0: expected 1 or more"),
        ({"init_params": "kmeans"}, "init_params='kmeans': expected one of 'k-means++', 'random'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the message is compared below)
        mx.GaussianMixture(**({"n_components": 3} | options))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (torch.randn(10), ValueError, r"X has shape (10,): expected [n, C]"),
        (torch.randn(10, 2, 2), ValueError, "X has shape (10, 2, 2): expected [n, C]"),
        (torch.randn(10, 0), ValueError, "X has shape (10, 0): expected [n, C]"),
        (torch.randn(2, 4), ValueError, "X has 2 rows: expected at least n_components=3"),
        (torch.randn(10, 4).half(), TypeError, "X has dtype torch.float16"),
        (torch.ones(10, 4).long(), TypeError, "X has dtype torch.int64"),
        (torch.full((10, 4), torch.nan), ValueError, "X holds NaN or infinity"),
        (torch.full((10, 4), torch.inf), ValueError, "X holds NaN or infinity"),
    ],
    ids=["1-d", "3-d", "no columns", "few rows", "half", "integer", "nan", "inf"],
)
def test_bad_data(X: Tensor, error: type[Exception], message: str) -> None:  # noqa: N803
    model = mx.GaussianMixture(3)
    with pytest.raises(error) as raised:
        model.fit(X)
    assert message in str(raised.value)
    assert not hasattr(model, "means_")
    if "rows" in message:
        return
    model.fit(torch.randn(20, 4))
    for method in (model.predict, model.predict_proba, model.score, model.score_samples):
        with pytest.raises(error) as raised:
            method(X)
        assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights_init": torch.ones(2) / 2}, "weights_init has shape (2,): expected [3]"),
        ({"weights_init": torch.ones(3)}, "expected values of at least 0 that sum to 1"),
        ({"weights_init": torch.tensor([1.5, -0.5, 0])}, "values of at least 0 that sum to 1"),
        ({"means_init": torch.ones(3, 5)}, "means_init has shape (3, 5): expected [3, 4]"),
        ({"means_init": torch.full((3, 4), torch.nan)}, "expected finite values"),
        ({"precisions_init": torch.ones(3)}, "precisions_init has shape (3,): expected [3, 4]"),
        ({"precisions_init": torch.zeros(3, 4)}, "expected positive values"),
        ({"precisions_init": -torch.ones(3, 4)}, "expected positive values"),
    ],
)
def test_bad_initial_values(options: dict[str, Tensor], message: str) -> None:
    model = mx.GaussianMixture(3, **options)
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the message is compared below)
        model.fit(torch.randn(20, 4))
    assert message in str(raised.value)
    assert next(iter(options)) in str(raised.value)
    assert not hasattr(model, "means_")


def test_before_fit_and_other_columns() -> None:
    model = mx.GaussianMixture(2)
    X = torch.randn(20, 4)
    for call in (
        lambda: model.predict(X),
        lambda: model.predict_proba(X),
        lambda: model.score(X),
        lambda: model.score_samples(X),
        lambda: model.sample(3),
    ):
        with pytest.raises(RuntimeError, match="not fitted yet: call fit first"):
            call()
    model.fit(X)
    with pytest.raises(ValueError, match="X has 3 columns: expected 4"):
        model.predict(X[:, :3])
    with pytest.raises(ValueError, match="n_samples=0: expected 1 or more"):
        model.sample(0)


def test_failed_fit_keeps_the_last_one() -> None:
    model = mx.GaussianMixture(2, random_state=0).fit(torch.randn(20, 4))
    before = model.means_.clone()
    with pytest.raises(ValueError, match="NaN"):
        model.fit(torch.full((20, 4), torch.nan))
    assert torch.equal(model.means_, before)


@pytest.mark.parametrize("rows", [torch.ones(10, 4), torch.tensor([[1.0, 2], [1, 2], [5, 5]])])
def test_repeated_rows(rows: Tensor) -> None:
    """Fewer distinct rows than components: finite, with variances at the floor."""
    model = mx.GaussianMixture(3, max_iter=200, random_state=0).fit(rows.double())
    assert model.means_.isfinite().all()
    assert (model.covariances_ >= 1e-6 - 1e-12).all()
    assert math.isfinite(model.score(rows))
