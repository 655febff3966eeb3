"""Evaluation tasks on frozen encoders: what each is called, and where it is. Free of torch.

A task is a function of a :class:`~gmje_bench.tasks.subject.Subject` in a module of this package of its own name.
"""

from dataclasses import dataclass

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """An entry of the registry.

    Args:
        name: What users type, and the name of the module.
        summary: One line for ``list``.
        views: Whether the task needs embeddings of views and of outliers, beside features.
    """

    name: str
    summary: str
    views: bool = False


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("linear_probe", "logistic regression on frozen features, its strength chosen on a part of train"),
        Task("knn", "weighted nearest neighbours by cosine of frozen features"),
        Task("uncertainty", "out-of-distribution AUROC, risk against coverage, calibration of the conditional", True),
        Task("sampling", "samples of latent densities: distances, precision and recall, pictures", True),
    )
}
