"""Share of test images whose nearest training image, by cosine of features, has their class."""

import torch.nn.functional as F

from gmje_bench.runs import Metric
from gmje_bench.tasks.subject import FeatureSubject, TaskResult

METRICS = {
    "nearest": Metric(title="nearest neighbour", unit="%", higher_is_better=True, task="neighbour_agreement"),
}


def measure(subject: FeatureSubject) -> TaskResult:
    """One nearest neighbour: the weighted kNN with k = 1."""
    train, test = subject.train, subject.test
    cosine = F.normalize(test.features, dim=1) @ F.normalize(train.features, dim=1).T
    agree = train.labels[cosine.argmax(dim=1)] == test.labels
    return TaskResult({"nearest": 100 * float(agree.double().mean())})
