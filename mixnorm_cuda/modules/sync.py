"""Mixture normalization over several processes."""

import torch
from torch import Tensor

from mixnorm_cuda.modules.documentation import documented
from mixnorm_cuda.modules.mixture_norm import MixtureNormBase


class SyncMixtureNorm(MixtureNormBase):
    __doc__ = (
        documented("[N, C, *S]", "SyncBatchNorm")
        + """
    In one process this is `MixtureNorm2d` for inputs of any rank. Exchanging the sums between
    processes is not part of this version: with more than one process in the default group,
    training raises NotImplementedError rather than using statistics of one shard.
    """
    )

    def forward(self, x: Tensor, responsibilities: Tensor | None = None) -> Tensor:
        """See `MixtureNormBase.forward`; raises NotImplementedError with several processes."""
        processes = torch.distributed.get_world_size() if _distributed() else 1
        if self.training and processes > 1:
            raise NotImplementedError(
                f"SyncMixtureNorm in training with {processes} processes: this version has no "
                "exchange of statistics between processes; use MixtureNorm2d for statistics of "
                "each process's own shard"
            )
        return super().forward(x, responsibilities)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
