"""The task of the linear probe: how much a linear classifier reads from frozen features."""

from gmje_bench.tasks.subject import FeatureSubject, TaskResult

__all__ = ["linear_probe"]


def linear_probe(subject: FeatureSubject) -> TaskResult:
    """Top-1 accuracy in per cent of :func:`gmje_bench.tasks.probe.fit_probe`, and the strength that was chosen."""
    probe = subject.probe
    choices: dict[str, float | str] = {"probe_c": probe.c, "probe_validation_accuracy": probe.validation_accuracy}
    return TaskResult({"linear_probe": probe.accuracy}, choices=choices)
