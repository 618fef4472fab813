"""Mixture normalization as measured: one implementation per backend, and the compiled reference."""

import warnings

import torch
from torch import Tensor, nn

import mixnorm_cuda as mx
from bench.baselines import REG_COVAR, compiled, compiler_missing, positions
from bench.cases import Case
from bench.inputs import Inputs
from bench.layers import Implementation, Layer
from bench.traffic import EM_STEPS
from mixnorm_cuda import dispatch
from mixnorm_cuda.estimation import em
from mixnorm_cuda.types import Mixture

EPS = 1e-5
BACKENDS = ("reference", "cpu", "triton", "cuda")
"""The backends a user can get; the emulation of the CUDA kernels is for tests."""


class MixtureNorm:
    """``MixtureNorm1d/2d/3d``, affine, tracking running statistics; the compiled reference too."""

    ours = True

    def __init__(self, backend: str, compile_it: bool = False) -> None:
        self.backend = backend
        self.compiled = compile_it
        self.name = f"{backend}-compiled" if compile_it else backend
        self.heavy = backend == "reference"

    def serves(self, phase: str) -> bool:
        return phase != "em" or not self.compiled

    def why_not(self, case: Case, x: Tensor) -> str | None:
        reason = dispatch.why_not(self.backend, x, case.num_components, case.num_groups)
        if reason is None and self.compiled:
            reason = compiler_missing(x.device.type)
        return reason

    def layer(self, case: Case, inputs: Inputs) -> Layer:
        if case.phase == "em":
            return Layer(lambda x: em_steps(positions(x), inputs.mixture, self.backend), ())
        dims = max(inputs.x.dim() - 2, 1)
        kind = (mx.MixtureNorm1d, mx.MixtureNorm2d, mx.MixtureNorm3d)[dims - 1]
        module = kind(
            case.shape.channels, EPS, num_components=case.num_components, groups=case.num_groups,
            em_iters=case.em_iters, backend=self.backend, device=inputs.x.device,
        )  # fmt: skip
        module.weight, module.bias = map(nn.Parameter, (inputs.weight.clone(), inputs.bias.clone()))
        # As after a first batch: the statistics describe data, and are not seeded anew.
        statistics = dict(zip(("weight", "mean", "var"), inputs.mixture, strict=True))
        state = {f"running_{name}": t for name, t in statistics.items()}
        state["num_batches_tracked"] = torch.tensor(1)
        module.load_state_dict({**module.state_dict(), **state})
        module.train(case.phase != "eval")
        return Layer(compiled(module) if self.compiled else module, (module.weight, module.bias))


class MixtureModel:
    """``mixnorm_cuda.GaussianMixture``, with its likelihood per step as scikit-learn has it."""

    name, compiled, ours, heavy = "gaussian-mixture", False, True, False

    def serves(self, phase: str) -> bool:
        return phase == "em"

    def why_not(self, case: Case, x: Tensor) -> str | None:
        return None

    def layer(self, case: Case, inputs: Inputs) -> Layer:
        mixture = inputs.mixture

        def forward(x: Tensor) -> Tensor:
            model = mx.GaussianMixture(
                case.num_components, tol=0, max_iter=EM_STEPS, reg_covar=REG_COVAR,
                weights_init=mixture.mixing_weight[0], means_init=mixture.mean,
                precisions_init=1 / (mixture.var + REG_COVAR),
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="GaussianMixture did not converge")
                model.fit(positions(x))
            return torch.cat([model.means_, model.covariances_])

        return Layer(forward, ())


def em_steps(rows: Tensor, mixture: Mixture, backend: str) -> Tensor:
    """Means and covariances after ten EM steps, scikit-learn's ``reg_covar`` included: [2K, C]."""
    mixture = em(rows, mixture, iters=EM_STEPS, eps=REG_COVAR, backend=backend)
    return torch.cat([mixture.mean, mixture.var + REG_COVAR])


def ours(names: tuple[str, ...] = BACKENDS) -> list[Implementation]:
    """Our implementations on the backends ``names``."""
    chosen: list[Implementation] = [MixtureNorm(name) for name in names]
    if "reference" in names:
        chosen.append(MixtureNorm("reference", compile_it=True))
    return [*chosen, MixtureModel()]
