"""The task of the linear probe: how much a linear classifier reads from frozen features."""

from gmje_bench.tasks.subject import FeatureSubject, TaskResult

__all__ = ["linear_probe"]


def linear_probe(subject: FeatureSubject) -> TaskResult:
    """Top-1 accuracy in per cent of :func:`gmje_bench.tasks.probe.fit_probe`, and the strength that was chosen.

    With more than ten classes, top-5 accuracy too.
    """
    probe = subject.probe
    choices: dict[str, float | str] = {"probe_c": probe.c, "probe_validation_accuracy": probe.validation_accuracy}
    metrics = {"linear_probe": probe.accuracy}
    if len(subject.classes) > 10:
        metrics["linear_probe_top5"] = probe.top5
    return TaskResult(metrics, choices=choices)
