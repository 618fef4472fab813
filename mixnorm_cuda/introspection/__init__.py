"""Looking into mixture layers: plots, and a monitor of components that collapse."""

from mixnorm_cuda.introspection.activations import Activations, observe
from mixnorm_cuda.introspection.monitor import Collapse, MixtureMonitor
from mixnorm_cuda.introspection.plot import draw_after, draw_before, plot_mixture

__all__ = [
    "Activations",
    "Collapse",
    "MixtureMonitor",
    "draw_after",
    "draw_before",
    "observe",
    "plot_mixture",
]
