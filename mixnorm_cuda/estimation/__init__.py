"""Where θ comes from in a training step, and where it goes: no gradient flows here."""

from mixnorm_cuda.estimation import recomputation
from mixnorm_cuda.estimation.batch_norm import collapse_affine, expand_affine, split_gaussian
from mixnorm_cuda.estimation.em import batch_moments, em
from mixnorm_cuda.estimation.matching import match_components
from mixnorm_cuda.estimation.running import starting_mixture, update_running_statistics
from mixnorm_cuda.estimation.seeding import initial_mixture, seed_mixture

__all__ = [
    "batch_moments",
    "collapse_affine",
    "em",
    "expand_affine",
    "initial_mixture",
    "match_components",
    "recomputation",
    "seed_mixture",
    "split_gaussian",
    "starting_mixture",
    "update_running_statistics",
]
