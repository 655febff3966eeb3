"""The registry of evaluation tasks: what each is called, and where it is. Free of torch.

A task is a function ``task(subject) -> TaskResult`` of a :class:`~gmje_bench.tasks.subject.Subject`. Its metrics are
declared in :data:`gmje_bench.runs.METRICS`; its section of the report, if it has one, is a function of the run.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmje_bench.tasks.subject import TaskResult

__all__ = ["TASKS", "Task", "named"]


@dataclass(frozen=True)
class Task:
    """An entry of the registry.

    Attributes:
        name: What users type.
        summary: One line for ``list``.
        run: ``module:function``, which is imported when the task runs, or the function; it takes a subject.
        views: Whether the task needs embeddings of views and of outliers, beside features; it then sees a bounded,
            balanced draw of the images.
        pairs: Whether the task needs pairs of views of the training images to fit to and to choose by; with ``views``.
        section: ``module:function`` of its section of the report, or the function, which takes the run and a drawer;
            empty for none.
        title: The title of that section.
        source: Where a task that is not of this package comes from.
        pictures: Whether the task asks for small training images, which all processes then read before; with ``views``.
        everywhere: Whether all processes run the task together, each on its own rows; the main one alone otherwise.
        probe: Whether the task asks for the linear probe, which all processes then fit together before.
    """

    name: str
    summary: str
    run: str | Callable[[Any], "TaskResult"]
    views: bool = False
    pairs: bool = False
    section: str | Callable[[Any, Any], Any] = ""
    title: str = ""
    source: str = ""
    everywhere: bool = False
    probe: bool = False
    pictures: bool = False

    def load(self) -> "Callable[[Any], TaskResult]":
        """Import the function of the task."""
        function: Callable[[Any], TaskResult] = named(self.run)
        return function

    def load_section(self) -> Callable[[Any, Any], Any]:
        """Import the function of the task's section of the report."""
        function: Callable[[Any, Any], Any] = named(self.section)
        return function


def named(place: str | Callable[..., Any]) -> Any:
    """The object that ``module:name`` names; a function stands for itself.

    Examples:
        >>> named("math:floor")(2.5)
        2
    """
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


#: Every task by the name that users type; plug-ins add theirs.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "linear_probe",
            "logistic regression on frozen features, its strength chosen on a part of train",
            "gmje_bench.tasks.linear_probe:linear_probe",
            everywhere=True,
        ),
        Task(
            "knn",
            "weighted nearest neighbours by cosine of frozen features",
            "gmje_bench.tasks.knn:knn",
            everywhere=True,
        ),
        Task(
            "few_labels",
            "logistic regression with 1 % and with 10 % of the labels, mean over draws",
            "gmje_bench.tasks.few_labels:few_labels",
            everywhere=True,
        ),
        Task(
            "uncertainty",
            "out-of-distribution AUROC, risk against coverage, calibration of the conditional",
            "gmje_bench.tasks.uncertainty:uncertainty",
            views=True,
            probe=True,
            section="gmje_bench.report.sections.uncertainty:uncertainty",
            title="Uncertainty",
        ),
        Task(
            "outliers",
            "outliers near and far, told from test images by densities, Mahalanobis and kNN: AUROC and FPR at 95 %",
            "gmje_bench.tasks.outliers:outliers",
            views=True,
            section="gmje_bench.report.sections.outliers:outliers",
            title="Outliers",
        ),
        Task(
            "sampling",
            "samples of latent densities: distances, precision and recall, pictures",
            "gmje_bench.tasks.sampling:sampling",
            views=True,
            pictures=True,
            section="gmje_bench.report.sections.sampling:sampling",
            title="Samples",
        ),
        Task(
            "density",
            "densities of pairs, learned or fitted afterwards: likelihood, calibration, samples",
            "gmje_bench.tasks.density:density",
            views=True,
            pairs=True,
            section="gmje_bench.report.sections.density:density",
            title="Densities",
        ),
        Task(
            "completion",
            "several answers for what the context does not show, decoded: best of eight, diversity, likelihood",
            "gmje_bench.tasks.completion:completion",
            views=True,
            pairs=True,
            section="gmje_bench.report.sections.completion:completion",
            title="Completions",
        ),
    )
}
