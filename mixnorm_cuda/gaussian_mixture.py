"""A diagonal Gaussian mixture model on torch tensors, with scikit-learn's names and meaning."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mixnorm_cuda import checks
from mixnorm_cuda.estimation import batch_moments, seed_mixture
from mixnorm_cuda.reference import log_joint
from mixnorm_cuda.reference.layout import grouped
from mixnorm_cuda.types import Mixture


class GaussianMixture:
    """Diagonal-covariance Gaussian mixture fitted by EM: ``sklearn.mixture.GaussianMixture``.

    Takes and returns torch tensors on any device; the M-step's sums come from the same kernels as
    the normalization layers'. ``covariance_type`` is always ``"diag"``.

    Args:
        n_components: K ≥ 1.
        tol: EM stops when the mean log-likelihood gains less than this in a step.
        reg_covar: added to every variance.
        max_iter: EM steps at most; a `UserWarning` when they do not suffice.
        n_init: fits from different seeds; the one with the highest likelihood is kept.
        init_params: ``"k-means++"``: seeding with two Lloyd steps on at most 4,096 rows; or
            ``"random"``: means at rows drawn at random with the overall variance.
        random_state: seed of the draws; None draws from torch's global generator.
        weights_init: λ, ``[K]``; means_init: μ, ``[K, C]``; precisions_init: inverse variances,
            ``[K, C]``. Each replaces what the seeding gives.

    Attributes (after `fit`):
        weights_ ``[K]``, means_ ``[K, C]``, covariances_ ``[K, C]`` (diagonals, ``reg_covar``
        included), precisions_ (their inverses), converged_, n_iter_, lower_bound_ (mean
        log-likelihood per row before the last M-step).

    Raises:
        ValueError: an argument out of range.
    """

    weights_: Tensor
    means_: Tensor
    covariances_: Tensor
    precisions_: Tensor
    converged_: bool
    n_iter_: int
    lower_bound_: float

    def __init__(
        self,
        n_components: int,
        *,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "k-means++",
        random_state: int | None = None,
        weights_init: Tensor | None = None,
        means_init: Tensor | None = None,
        precisions_init: Tensor | None = None,
    ) -> None:
        if n_components < 1:
            raise ValueError(f"n_components={n_components}: expected 1 or more")
        if not tol >= 0:
            raise ValueError(f"tol={tol}: expected 0 or more")
        if not reg_covar > 0:
            raise ValueError(f"reg_covar={reg_covar}: expected a number above 0")
        for name, value in (("max_iter", max_iter), ("n_init", n_init)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected 1 or more")
        checks.check_choice("init_params", init_params, ("k-means++", "random"))
        self.n_components = n_components
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init

    @torch.no_grad()
    def fit(self, X: Tensor, y: None = None) -> "GaussianMixture":
        """Fit to the rows of ``X`` ``[n, C]``, float32 or float64; returns self.

        Raises:
            ValueError: ``X`` is not a finite matrix with at least K rows; an initial value has
                another shape than ``X`` and K ask for, is not finite, or is no weight or precision.
            TypeError: ``X`` is not float32 or float64.
        """
        self._check_data(X)
        if X.shape[0] < self.n_components:
            raise ValueError(
                f"X has {X.shape[0]} rows: expected at least n_components={self.n_components}"
            )
        with self._seeded(X):
            fits = [self._fit_once(X) for _ in range(self.n_init)]
        mixture, self.lower_bound_, self.n_iter_, self.converged_ = max(fits, key=lambda f: f[1])
        if not self.converged_:
            warnings.warn(
                f"GaussianMixture did not converge in max_iter={self.max_iter} steps: raise "
                "max_iter or tol, or scale the data",
                stacklevel=2,
            )
        self.weights_ = mixture.mixing_weight[0]
        self.means_ = mixture.mean
        self.covariances_ = mixture.var + self.reg_covar
        self.precisions_ = 1 / self.covariances_
        return self

    @torch.no_grad()
    def score_samples(self, X: Tensor) -> Tensor:
        """Log-likelihood log p(x) of every row, ``[n]``."""
        return self._log_joint(X, self._mixture(X)).logsumexp(1)

    def score(self, X: Tensor, y: None = None) -> float:
        """Mean log-likelihood per row."""
        return float(self.score_samples(X).mean())

    @torch.no_grad()
    def predict_proba(self, X: Tensor) -> Tensor:
        """Posterior probability of every component for every row, ``[n, K]``."""
        return self._log_joint(X, self._mixture(X)).softmax(1)

    @torch.no_grad()
    def predict(self, X: Tensor) -> Tensor:
        """Index of the most probable component of every row, ``[n]``."""
        return self._log_joint(X, self._mixture(X)).argmax(1)

    @torch.no_grad()
    def sample(self, n_samples: int = 1) -> tuple[Tensor, Tensor]:
        """Draw rows from the fitted mixture: ``[n_samples, C]`` and their components.

        Rows are ordered by component, as in scikit-learn.
        """
        self._check_fitted()
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples}: expected 1 or more")
        with self._seeded(self.means_):
            component = torch.multinomial(self.weights_, n_samples, replacement=True)
            component = component.sort().values
            noise = torch.randn(
                n_samples,
                self.means_.shape[1],
                device=self.means_.device,
                dtype=self.means_.dtype,
            )
        return self.means_[component] + noise * self.covariances_[component].sqrt(), component

    def _fit_once(self, X: Tensor) -> tuple[Mixture, float, int, bool]:
        mixture = self._initial(X)
        bound = -math.inf
        for step in range(1, self.max_iter + 1):
            before, bound = bound, float(self._log_joint(X, mixture).logsumexp(1).mean())
            moments = batch_moments(X, mixture, self.reg_covar, "auto")
            mixture = Mixture(moments.mass / X.shape[0], moments.mean, moments.var)
            if abs(bound - before) < self.tol:
                return mixture, bound, step, True
        return mixture, bound, self.max_iter, False

    def _initial(self, X: Tensor) -> Mixture:
        k, channels = self.n_components, X.shape[1]
        if self.init_params == "random":
            rows = torch.randperm(X.shape[0], device=X.device)[:k]
            mixture = Mixture(
                X.new_full((1, k), 1 / k), X[rows], X.var(0, correction=0).expand(k, -1)
            )
        else:
            mixture = seed_mixture(X, k, 1, self.reg_covar)
        weights = self._init_value("weights_init", (k,), X)
        means = self._init_value("means_init", (k, channels), X)
        precisions = self._init_value("precisions_init", (k, channels), X)
        return Mixture(
            mixture.mixing_weight if weights is None else weights[None],
            mixture.mean if means is None else means,
            mixture.var if precisions is None else 1 / precisions - self.reg_covar,
        )

    def _init_value(self, name: str, shape: tuple[int, ...], X: Tensor) -> Tensor | None:
        value: Tensor | None = getattr(self, name)
        if value is None:
            return None
        if value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}: expected {list(shape)}")
        value = value.to(X)
        wrong = None
        if not bool(value.isfinite().all()):
            wrong = "finite values"
        elif name == "precisions_init" and not bool((value > 0).all()):
            wrong = "positive values"
        elif name == "weights_init" and (value.min() < 0 or abs(value.sum() - 1) > 1e-4):
            wrong = "values of at least 0 that sum to 1"
        if wrong is not None:
            raise ValueError(f"{name}={value.tolist()}: expected {wrong}")
        return value

    def _log_joint(self, X: Tensor, mixture: Mixture) -> Tensor:
        constant = 0.5 * X.shape[1] * math.log(2 * math.pi)
        # As one sample of n positions: sums over channels then run along contiguous rows.
        positions = grouped(X.t().contiguous()[None], 1)
        return log_joint(positions, mixture, self.reg_covar)[0, 0].t() - constant

    def _mixture(self, X: Tensor) -> Mixture:
        self._check_fitted()
        self._check_data(X)
        if X.shape[1] != self.means_.shape[1]:
            raise ValueError(f"X has {X.shape[1]} columns: expected {self.means_.shape[1]}")
        return Mixture(
            self.weights_[None].to(X),
            self.means_.to(X),
            (self.covariances_ - self.reg_covar).to(X),
        )

    def _check_fitted(self) -> None:
        if not hasattr(self, "means_"):
            raise RuntimeError("this GaussianMixture is not fitted yet: call fit first")

    def _check_data(self, X: Tensor) -> None:
        if X.dim() != 2 or X.shape[1] < 1:
            raise ValueError(f"X has shape {tuple(X.shape)}: expected [n, C]")
        if X.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"X has dtype {X.dtype}: expected torch.float32 or torch.float64")
        if not bool(X.isfinite().all()):
            raise ValueError("X holds NaN or infinity: expected finite values")

    @contextmanager
    def _seeded(self, X: Tensor) -> Iterator[None]:
        """With ``random_state``: torch's generators seeded inside, untouched outside."""
        if self.random_state is None:
            yield
            return
        with torch.random.fork_rng(devices=[X.device] if X.is_cuda else []):
            torch.manual_seed(self.random_state)
            yield
