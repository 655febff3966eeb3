"""A joint density of two numbers, a slice through it, and the conditional that the slice is."""

import torch
from matplotlib.figure import Figure
from themes import GREEN, RED, Theme, write

from gmje_core import JointGaussianMixture

HERE = 0.6  # the context that is asked for

density = JointGaussianMixture.from_moments(
    weights=torch.tensor([0.4, 0.35, 0.25]),
    means=torch.tensor([[-0.5, -0.4], [0.8, 1.2], [0.7, -1.1]]),
    covariances=torch.tensor([[[0.5, 0.3], [0.3, 0.35]], [[0.25, -0.12], [-0.12, 0.2]], [[0.3, 0.16], [0.16, 0.2]]]),
    context_dim=1,
)
across, up = torch.linspace(-2.2, 2.2, 89), torch.linspace(-2.6, 2.6, 105)
grid = torch.cartesian_prod(across, up)
joint = density.log_prob(grid[:, :1], grid[:, 1:]).exp().reshape(len(across), len(up)).T
posterior = density.condition(torch.tensor([HERE]))
curve = posterior.log_prob(up[:, None]).exp()
mean = float(posterior.mean)
within = float(posterior.covariance_within.sqrt())
between = float(posterior.covariance_between.sqrt())


def draw(theme: Theme) -> Figure:
    """The joint on the left, the conditional on the right, on one vertical axis."""
    figure = Figure(figsize=(5.4, 3.9))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    left.contourf(across, up, joint, levels=torch.linspace(0.01, float(joint.max()), 9), cmap=theme.shades())
    left.axvline(HERE, color=RED, linewidth=1.8)
    left.set(xlabel="$z_c$", ylabel="$z_t$", xticks=[HERE], yticks=[], xlim=(-2.2, 2.2))
    left.set_xticklabels(["asked"], color=RED)
    left.set_title("joint density $q(z_c, z_t)$")
    right.plot(curve, up, color=RED)
    right.fill_betweenx(up, 0, curve, color=RED, alpha=0.15, linewidth=0)
    right.axhline(mean, color=theme.quiet, linewidth=1.6, linestyle=":")
    top = float(curve.max())
    right.text(1.02 * top, mean + 0.06, "mean", color=theme.quiet, ha="right", fontsize=10)
    for place, length, color, label in ((0.5, between, GREEN, "between"), (0.74, within, theme.accent, "within")):
        bar = {"color": color, "linewidth": 2.2, "capsize": 3}
        right.errorbar([place * top], [mean], yerr=[length], **bar)
        right.text(place * top, mean - length - 0.12, label, color=color, ha="center", va="top", fontsize=10)
    right.set(xlabel="density", xticks=[], xlim=(0, 1.05 * top))
    right.set_title("conditional $q(z_t \\mid z_c)$", color=RED)
    return figure


write("conditional", draw)
