"""A linear classifier of detached features that is trained along, to watch the encoder; it changes no other number."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from gmje_core.distributed import world_size

__all__ = ["OnlineProbe"]

_RATE = 1e-3


class OnlineProbe:
    """A linear classifier with an optimiser of its own, which is shown the features that the encoder is trained on.

    Features are normalised row by row and detached, the classifier starts at zero, and nothing is drawn, so that the
    encoder and all random states are what they are without it. Its accuracy counts every batch before it learns from
    it. All processes hold the same classifier.

    Args:
        features: ``F``, the number of features.
        classes: ``K``, the number of classes.
        device: The device of the features.

    Examples:
        >>> probe = OnlineProbe(2, 2)
        >>> for _ in range(3):
        ...     probe.look(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        ...     probe.step(torch.tensor([1, 0]))
        >>> round(probe.end_epoch(), 1)  # The first batch is a guess, and the others are known.
        83.3
    """

    def __init__(self, features: int, classes: int, device: torch.device | None = None) -> None:
        self.weights = torch.zeros(features + 1, classes, device=device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.weights], lr=_RATE)
        self.counts = torch.zeros(2, device=device)
        self._seen: list[Tensor] = []

    def look(self, features: Tensor) -> None:
        """Keep detached features ``(n, F)``: those of one or more views of the images whose classes come next."""
        self._seen.append(features)

    def step(self, labels: Tensor) -> None:
        """Learn from the features that were looked at since the last step.

        Args:
            labels: int64 ``(b,)``; the features are those of one or more views of these images, view by view.
        """
        rows = F.layer_norm(torch.cat(self._seen).float(), self._seen[0].shape[1:])
        self._seen.clear()
        target = labels.repeat(len(rows) // len(labels))
        with torch.enable_grad(), torch.autocast(rows.device.type, enabled=False):
            logits = torch.addmm(self.weights[-1], rows, self.weights[:-1])
            loss = F.cross_entropy(logits, target)
            (gradient,) = torch.autograd.grad(loss, [self.weights])
        right = (logits.detach().argmax(dim=1) == target).sum()
        sums = torch.cat(
            [gradient.flatten() / world_size(), torch.stack([right, right.new_tensor(len(target))]).float()]
        )
        if world_size() > 1:
            dist.all_reduce(sums)
        self.weights.grad = sums[:-2].view_as(self.weights)
        self.optimizer.step()
        self.counts += sums[-2:]

    def end_epoch(self) -> float:
        """The accuracy in per cent over the steps since the last call; counting starts anew."""
        right, seen = self.counts.tolist()
        self.counts.zero_()
        return 100.0 * right / seen if seen else 0.0

    def state(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint keeps."""
        moments = self.optimizer.state_dict()["state"].get(0, {})
        return {"weights": self.weights.detach(), "counts": self.counts, **moments}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave.

        Raises:
            KeyError: a tensor is missing.
        """
        with torch.no_grad():
            self.weights.copy_(state["weights"])
            self.counts.copy_(state["counts"])
        moments = {key: value for key, value in state.items() if key not in ("weights", "counts")}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": groups})
