"""The Mahalanobis Trace Trap as curves: one encoder trained on the batch's own covariance, and on a running one."""

import warnings

import torch
from matplotlib.figure import Figure
from themes import RED, Theme, write

from gmje_core import GJE
from gmje_core.diagnostics import embedding_diagnostics

STEPS, DIM, SHARED = 400, 16, 8


def train(moments: str) -> list[tuple[float, float]]:
    """Loss and effective rank of every step."""
    torch.manual_seed(0)
    mixing = torch.randn(SHARED, 32)
    encoder = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, DIM))
    criterion = GJE(DIM, moments=moments, check_every=0)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)
    curve = []
    for _ in range(STEPS):
        shared = torch.randn(256, SHARED)  # what both views of an item have in common
        views = torch.nn.functional.normalize(encoder(shared @ mixing + 0.5 * torch.randn(2, 256, 32)), dim=-1)
        loss = criterion(*views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rank = float(embedding_diagnostics(*views.detach())["effective_rank"])
        curve.append((float(loss), rank))
    return curve


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the trap announces itself
    curves = {"batch": train("batch"), "running": train("running")}


def draw(theme: Theme) -> Figure:
    """The loss above, the effective rank below."""
    figure = Figure(figsize=(5.4, 4.6))
    above, below = figure.subplots(2, 1, sharex=True)
    colors = {"batch": RED, "running": theme.accent}
    labels = {"batch": "covariance of the batch it scores", "running": "running covariance, scored first"}
    for name, curve in curves.items():
        for number, axes in enumerate((above, below)):
            axes.plot([values[number] for values in curve], color=colors[name], label=labels[name])
    above.set_title("Loss [nats]: the collapse looks like success")
    above.legend(loc="center right", bbox_to_anchor=(1, 0.66))
    below.set_title(f"Effective rank of the embeddings, of {DIM}")
    below.axhline(SHARED, color=theme.quiet, linestyle=":", linewidth=1.6)
    below.text(
        STEPS, SHARED + 0.4, f"{SHARED} numbers that the views share", ha="right", va="bottom", color=theme.quiet
    )
    below.set(ylim=(0, 15), xlim=(0, STEPS), xlabel="step")
    return figure


write("trap", draw)
