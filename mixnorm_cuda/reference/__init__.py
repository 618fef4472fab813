"""Mixture normalization in plain PyTorch: the ground truth that every kernel is held to.

Every function follows one formula of the method, on any device and in any floating dtype, and is
differentiable; speed is the kernels' affair. Inside this package activations are ``[N, G, D, L]``
(channels split into G groups of D, positions flattened to L) and responsibilities are
``[N, G, K, L]``; `backend` translates from and to the public shapes.
"""

from mixnorm_cuda.reference.backend import ReferenceBackend
from mixnorm_cuda.reference.backward import affine_gradients, backward_apply, backward_sums
from mixnorm_cuda.reference.layout import per_channel
from mixnorm_cuda.reference.moments import em_step, moments, safe_mass
from mixnorm_cuda.reference.normalize import mixing_factor, normalize
from mixnorm_cuda.reference.responsibilities import (
    log_joint,
    log_odds,
    remoteness,
    responsibilities,
)

__all__ = [
    "ReferenceBackend",
    "affine_gradients",
    "backward_apply",
    "backward_sums",
    "em_step",
    "log_joint",
    "log_odds",
    "mixing_factor",
    "moments",
    "normalize",
    "per_channel",
    "remoteness",
    "responsibilities",
    "safe_mass",
]
