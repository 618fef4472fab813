"""What mixture normalization is held against: BatchNorm, Mode Normalization, scikit-learn, a copy.

A case's BatchNorm time is its fastest BatchNorm of the run.
"""

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.cases import Case
from bench.inputs import Inputs
from bench.layers import Implementation, Layer, trainable
from bench.traffic import EM_STEPS
from mixnorm_cuda.functional import mixture_normalize

REG_COVAR = 1e-6
"""scikit-learn's default covariance floor, for every EM fit."""


def compiler_missing(device_type: str) -> str | None:
    """Why ``torch.compile`` cannot generate code here; None when it can."""
    if device_type == "cpu":
        compiler = os.environ.get("CXX")
        candidates = [compiler] if compiler else ["g++", "clang++", "c++"]
        if not any(shutil.which(name) for name in candidates):
            return f"torch.compile needs a C++ compiler on a CPU (looked for {candidates})"
    elif importlib.util.find_spec("triton") is None:
        return "torch.compile needs the package triton on a GPU"
    return None


def compiled(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``torch.compile`` for one shape, apart from anything compiled before."""
    torch._dynamo.config.recompile_limit = 512
    result: Callable[[Tensor], Tensor] = torch.compile(forward, dynamic=False)
    return result


class BatchNorm:
    """``nn.BatchNorm1d/2d/3d``, affine, tracking running statistics; eager or compiled."""

    ours, heavy = False, False

    def __init__(self, compile_it: bool = False) -> None:
        self.compiled = compile_it
        self.name = "bn-compiled" if compile_it else "bn"

    def serves(self, phase: str) -> bool:
        return phase != "em"

    def why_not(self, case: Case, x: Tensor) -> str | None:
        return compiler_missing(x.device.type) if self.compiled else None

    def layer(self, case: Case, inputs: Inputs) -> Layer:
        dims = max(inputs.x.dim() - 2, 1)
        kind = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        module = kind(case.shape.channels, device=inputs.x.device)
        module.weight, module.bias = map(nn.Parameter, (inputs.weight.clone(), inputs.bias.clone()))
        module.train(case.phase != "eval")
        return Layer(compiled(module) if self.compiled else module, (module.weight, module.bias))


class ModeNorm:
    """Mode Normalization (Deecke et al., ICLR 2019): gates ν = softmax(W mean(x) + b) per sample.

    Runs our operator with given responsibilities, on the backend ``"auto"`` takes.
    """

    name, compiled, ours, heavy = "mode-norm", False, False, True

    def serves(self, phase: str) -> bool:
        return phase != "em"

    def why_not(self, case: Case, x: Tensor) -> str | None:
        return "its gate is shared by all channels" if case.num_groups != 1 else None

    def layer(self, case: Case, inputs: Inputs) -> Layer:
        weight, bias = trainable(inputs.weight, inputs.bias)
        mixture = inputs.mixture
        gate_weight, gate_bias = trainable(
            mixture.mean / mixture.var, mixture.mixing_weight.log().squeeze(0)
        )
        lam, mu, var = mixture if case.phase == "eval" else (None, None, None)

        def forward(x: Tensor) -> Tensor:
            pooled = x.flatten(2).mean(2) if x.dim() > 2 else x
            nu = torch.softmax(nn.functional.linear(pooled.float(), gate_weight, gate_bias), 1)
            return mixture_normalize(
                x, lam, mu, var, weight, bias, training=case.phase != "eval",
                mixing_scale=False, responsibilities=nu,
            )[0]  # fmt: skip

        return Layer(forward, (weight, bias, gate_weight, gate_bias))


class Sklearn:
    """scikit-learn's diagonal ``GaussianMixture``: ten EM steps from the case's θ."""

    name, compiled, ours, heavy = "sklearn", False, False, False

    def serves(self, phase: str) -> bool:
        return phase == "em"

    def why_not(self, case: Case, x: Tensor) -> str | None:
        if importlib.util.find_spec("sklearn") is None:
            return "scikit-learn is not installed: pip install scikit-learn"
        return None

    def layer(self, case: Case, inputs: Inputs) -> Layer:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        weight, mean, var = (t.cpu().double().numpy() for t in inputs.mixture)
        weight /= weight.sum()

        def forward(x: Tensor) -> Tensor:
            model = GaussianMixture(
                case.num_components, covariance_type="diag", tol=0, max_iter=EM_STEPS,
                reg_covar=REG_COVAR, weights_init=weight[0], means_init=mean,
                precisions_init=1 / (var + REG_COVAR),
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(positions(x).cpu().numpy())
            return torch.cat([torch.from_numpy(model.means_), torch.from_numpy(model.covariances_)])

        return Layer(forward, ())


def positions(x: Tensor) -> Tensor:
    """[N, C, *S] -> [M, C], one row per position."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


class Copy:
    """Read x, write it elsewhere: the hardware's limit for the case's own tensor."""

    name, compiled, ours, heavy = "copy", False, False, False

    def serves(self, phase: str) -> bool:
        return True

    def why_not(self, case: Case, x: Tensor) -> str | None:
        return "launches, not bytes, limit a latency case" if case.shape.kind == "latency" else None

    def layer(self, case: Case, inputs: Inputs) -> Layer:
        target = torch.empty_like(inputs.x)
        return Layer(target.copy_, ())


def baselines() -> list[Implementation]:
    return [Copy(), BatchNorm(), BatchNorm(compile_it=True), ModeNorm(), Sklearn()]
