"""InfoNCE as the limit of a GMJE with a component for every sample, as the target's kernel narrows to a point."""

import math

import torch
from matplotlib.figure import Figure
from themes import RED, Theme, write

from gmje_core import info_nce
from gmje_core.objectives import info_nce_mixture

BATCH, TEMPERATURE = 32, 0.2

generator = torch.Generator().manual_seed(0)
z_context = torch.nn.functional.normalize(torch.randn(BATCH, 8, generator=generator, dtype=torch.float64), dim=-1)
noise = torch.randn(z_context.shape, generator=generator, dtype=torch.float64)
z_target = torch.nn.functional.normalize(z_context + 0.3 * noise, dim=-1)
limit = float(info_nce(z_context, z_target, temperature=TEMPERATURE))

scales = torch.logspace(-3, 1, 81, dtype=torch.float64)
values = []
for scale in scales:
    density = info_nce_mixture(z_target, temperature=TEMPERATURE, target_scale=float(scale))
    values.append(math.log(BATCH) - float(density.pmi(z_context, z_target).mean()))
errors = [abs(value - limit) for value in values]
nearest = float(torch.pdist(z_target).min())


def draw(theme: Theme) -> Figure:
    """The value above, its distance from the limit below."""
    figure = Figure(figsize=(5.4, 4.8))
    above, below = figure.subplots(2, 1, sharex=True)
    above.axhline(limit, color=RED, linestyle="--", linewidth=1.6, label="InfoNCE")
    above.axhline(math.log(BATCH), color=theme.quiet, linestyle=":", linewidth=1.6, label="chance, log B")
    above.plot(scales, values, color=theme.accent, label="GMJE, a component for every sample")
    above.set_title("Loss plus log B [nats]")
    above.legend()
    below.plot(scales, errors, color=theme.accent, label="distance from InfoNCE")
    order = torch.exp(-(nearest**2) / (2 * scales))
    below.plot(
        scales, order, color=theme.quiet, linestyle=":", linewidth=1.6, label="order of the proof, $e^{-\\delta^2/2s}$"
    )
    below.set(xscale="log", yscale="log", ylim=(1e-15, 30), xlabel="width s of the target's kernel")
    below.set_title("Distance from the limit [nats]")
    below.legend(loc="lower right")
    return figure


write("contrastive_limit", draw)
