"""How good several answers are: the error of the best one, and how much they differ."""

import torch
from torch import Tensor

__all__ = ["answers_in_like_contexts", "errors", "mean_pairwise_distance", "roughness"]

_ROWS = 200


def errors(answers: Tensor, truth: Tensor) -> Tensor:
    """Root of the mean squared difference to the truth.

    Args:
        answers: ``(n, S, P)``.
        truth: ``(n, P)``.

    Returns:
        ``(n, S)``, in units of the pixels.

    Examples:
        >>> errors(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.zeros(1, 2)).square().tolist()
        [[0.0, 12.5]]
    """
    return (answers - truth.unsqueeze(1)).square().mean(dim=2).sqrt()


def mean_pairwise_distance(answers: Tensor) -> Tensor:
    """Mean root-mean-squared difference of two different answers to one context.

    Args:
        answers: ``(n, S, P)`` with ``S`` of at least 2.

    Returns:
        ``(n,)``, in units of the pixels.

    Examples:
        >>> mean_pairwise_distance(torch.tensor([[[0.0], [0.0], [3.0]]])).tolist()
        [2.0]
    """
    count, pixels = answers.shape[1:]
    distances = torch.cat([torch.cdist(part, part) for part in answers.split(_ROWS)])
    mean: Tensor = distances.sum(dim=(1, 2)) / (count * (count - 1) * pixels**0.5)
    return mean


def roughness(pictures: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down and across: small for a blurred picture.

    Args:
        pictures: ``(..., C, h, w)`` with two rows or two columns at least.

    Returns:
        ``(...)``, in units of the pixels.

    Examples:
        >>> roughness(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])).item()
        0.5
    """
    steps = [pictures.diff(dim=dim).abs().flatten(-3) for dim in (-2, -1)]
    return torch.cat(steps, dim=-1).mean(dim=-1)


def answers_in_like_contexts(contexts: Tensor, seen: Tensor, answers: Tensor, count: int) -> Tensor:
    """What real images show where their contexts are like those asked about: how much answers differ in truth.

    Args:
        contexts: ``(n, P_c)``, pixels that are asked about.
        seen: ``(N, P_c)``, pixels of the contexts of real images.
        answers: ``(N, P)``, what those images show elsewhere.
        count: Number ``S`` of nearest contexts.

    Returns:
        ``(n, S, P)``.

    Examples:
        >>> seen, shown = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[7.0], [8.0], [9.0]])
        >>> answers_in_like_contexts(torch.tensor([[0.4]]), seen, shown, count=2).flatten().tolist()
        [7.0, 8.0]
    """
    near = [torch.cdist(part, seen).topk(count, largest=False).indices for part in contexts.split(_ROWS)]
    return answers[torch.cat(near)]
