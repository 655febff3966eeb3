"""Regression averages two answers; the joint mixture keeps both. Both are trained here."""

import numpy as np
import torch
from matplotlib.figure import Figure
from themes import RED, Theme, write

from gmje_core import JointEmbeddingMixture

generator = torch.Generator().manual_seed(0)
context = 2 * torch.rand(2000, 1, generator=generator) - 1
side = torch.randint(0, 2, context.shape, generator=generator) * 2 - 1
fork = torch.nn.functional.softplus(8 * context) / 8  # one answer on the left, two on the right
target = side * fork + 0.25 * torch.sin(3 * context) + 0.06 * torch.randn(context.shape, generator=generator)

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(600):
    loss = torch.nn.functional.mse_loss(network(context), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

density = JointEmbeddingMixture(n_components=16, n_init=3, random_state=0).fit(context, target)

across = torch.linspace(-1, 1, 81)[:, None]
up = torch.linspace(-1.3, 1.3, 131)
regression = network(across).detach().flatten()
posterior = density.predict_distribution(across)
likelihood = posterior.log_prob(up[:, None, None]).exp()  # q(z_t | z_c) on the grid


def draw(theme: Theme) -> Figure:
    """Two panels over the same pairs."""
    figure = Figure(figsize=(5.4, 3.3))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes in (left, right):
        axes.set(xlabel="context", xticks=[], yticks=[], xlim=(-1, 1), ylim=(-1.3, 1.3))
    points = {"s": 5, "linewidths": 0, "color": theme.quiet, "rasterized": True}
    left.scatter(context[:700], target[:700], alpha=0.6, **points)
    left.plot(across, regression, color=RED)
    left.set_title("Regression: the mean,\nwhere no answer is", color=RED)
    left.set_ylabel("target")
    levels = np.geomspace(0.12, float(likelihood.max()), 9)
    right.contourf(across.flatten(), up, likelihood, levels=levels, cmap=theme.shades(), extend="max")
    right.scatter(context[:150], target[:150], alpha=0.7, **points)
    right.set_title("Joint mixture: every answer,\nwith its density", color=theme.accent)
    return figure


write("two_answers", draw)
