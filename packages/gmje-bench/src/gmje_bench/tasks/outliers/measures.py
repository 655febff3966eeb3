"""How well a score tells outliers from test images: two measures of detection, free of any threshold of the user's."""

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

__all__ = ["auroc", "false_positive_rate"]


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a test image has a higher score than an outlier, ties counted half; chance is 0.5.

    Args:
        inside: ``(n,)``, scores of test images.
        outside: ``(m,)``, scores of outliers.

    Examples:
        >>> auroc(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
        0.875
    """
    truth = torch.cat([torch.ones_like(inside), torch.zeros_like(outside)])
    return float(roc_auc_score(truth.numpy(), torch.cat([inside, outside]).numpy()))


def false_positive_rate(inside: Tensor, outside: Tensor, kept: float = 0.95) -> float:
    """Share of outliers that pass the highest threshold that keeps 95 % of the test images; chance is 0.95.

    Args:
        inside: ``(n,)``, scores of test images.
        outside: ``(m,)``, scores of outliers.
        kept: Share of test images that must pass.

    Examples:
        >>> inside = torch.arange(100.0)
        >>> false_positive_rate(inside, torch.tensor([4.0, 5.0, 6.0, -1.0]))
        0.5
    """
    # Rounding first keeps a product such as 0.95 * 100 from being counted as 96 images.
    count = int(-(-round(kept * len(inside), 9) // 1))
    threshold = inside.sort(descending=True).values[max(count, 1) - 1]
    return float((outside >= threshold).double().mean())
