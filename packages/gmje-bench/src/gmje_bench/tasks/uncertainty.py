"""Whether a density knows what it does not know: outliers, selective prediction, calibration of the conditional.

Every question is put to the density learned in training, where there is one, and to a mixture fitted afterwards to
the embeddings, the same for every method.
"""

import torch
from torch import Generator, Tensor

from gmje_bench.alignment.metrics import hpd_ranks, uniformity_error
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.calibration import calibration_error, marginal_ranks, reliability
from gmje_bench.tasks.densities import Scale, conditional_log_prob, embedding_log_prob, fit_joint
from gmje_bench.tasks.outliers.measures import auroc
from gmje_bench.tasks.subject import Subject, TaskResult
from gmje_core.densities.joint import JointDensity

__all__ = ["area_under_risk_coverage", "risk_coverage", "uncertainty"]

_BINS = 20
# Names of the calibration errors, by what the ranks are of.
_ECE = {"conditional": "conditional_ece", "context": "marginal_ece_context", "target": "marginal_ece_target"}


def uncertainty(subject: Subject) -> TaskResult:
    r"""Out-of-distribution AUROC, area under the risk-coverage curve, and calibration of :math:`q(z_t \mid z_c)`.

    - ``ood_auroc``: probability that a test image has a higher log-density than a digit; chance is 0.5. The task
      ``outliers`` has more kinds of outliers, and other scores to compare with.
    - ``aurc``: mean error of the linear probe on the images it is surest of, over all shares of them; surest by
      log-density of the embedding, or by the probe's own largest probability. Chance is the probe's error.
    - ``conditional_hpd``: Kolmogorov distance from uniform of the mass of the highest-density region that just holds
      the other view; about 0.03 for a perfect conditional and 1,000 pairs, at most 1.
    - ``conditional_ece``: mean gap between nominal and actual coverage of those regions, at most 0.5; about 0.010 for a
      perfect conditional and 1,000 pairs, see :func:`~gmje_bench.tasks.calibration.calibration_error`.
    - ``marginal_ece_context`` and ``marginal_ece_target``: the same of the marginal densities of each view; the latter
      only where the density has one in closed form.

    Args:
        subject: The encoder; embeddings of its clean images and of two views of each.

    Raises:
        CollapsedError: embeddings that are all the same.
    """
    train, test, outliers = subject.train, subject.test, subject.outliers["digits"]
    probe_log_prob = subject.probe.log_prob
    wrong = (probe_log_prob.argmax(dim=1) != test.labels).double()
    curve = risk_coverage(probe_log_prob.max(dim=1).values, wrong)
    metrics = {"aurc_softmax": area_under_risk_coverage(curve)}
    artifacts = {"uncertainty.risk_coverage.softmax": curve.float()}
    scale = Scale.of(train.context)
    fitted = fit_joint(scale.apply(train.context), scale.apply(train.target), subject.seed)
    asked: dict[str, tuple[JointDensity, Scale | None]] = {"fitted": (fitted, scale)}
    if subject.density is not None:
        asked["learned"] = (subject.density, None)
    for kind, (density, own) in asked.items():
        suffix = "" if kind == "learned" else f"_{kind}"

        def seen(z: Tensor, own: Scale | None = own) -> Tensor:
            return z if own is None else own.apply(z)

        inside, outside = (embedding_log_prob(density, seen(part.embeddings)) for part in (test, outliers))
        curve = risk_coverage(inside, wrong)
        rows = slice(0, PROTOCOL.conditional_pairs)
        log_prob = conditional_log_prob(
            density, seen(test.context[rows]), seen(test.target[rows]), PROTOCOL.conditional_samples, subject.seed
        )
        ranks = {"conditional": hpd_ranks(*log_prob, Generator().manual_seed(subject.seed))}
        ranks |= marginal_ranks(density, seen(test.context), seen(test.target), subject.seed)
        metrics |= {
            f"ood_auroc{suffix}": auroc(inside, outside),
            f"aurc{suffix}": area_under_risk_coverage(curve),
            f"conditional_hpd{suffix}": uniformity_error(ranks["conditional"]),
        }
        metrics |= {f"{_ECE[of]}{suffix}": calibration_error(found) for of, found in ranks.items()}
        artifacts |= {
            f"uncertainty.risk_coverage.{kind}": curve.float(),
            f"uncertainty.hpd_histogram.{kind}": torch.histc(ranks["conditional"].float(), _BINS, 0, 1),
            f"uncertainty.ood_scores.{kind}.inside": inside.float(),
            f"uncertainty.ood_scores.{kind}.outside": outside.float(),
        }
        artifacts |= {f"uncertainty.reliability.{of}.{kind}": reliability(found).float() for of, found in ranks.items()}
    return TaskResult(metrics, artifacts)


def risk_coverage(confidence: Tensor, wrong: Tensor) -> Tensor:
    """The error among the images that a predictor is surest of, for every share of them (El-Yaniv and Wiener, 2010).

    Args:
        confidence: ``(n,)``, of any scale.
        wrong: ``(n,)``, 1 where the prediction is wrong.

    Returns:
        ``(n, 2)``: coverage and risk, float64.

    Examples:
        >>> risk_coverage(torch.tensor([0.1, 0.9]), torch.tensor([1.0, 0.0])).tolist()
        [[0.5, 0.0], [1.0, 0.5]]
    """
    count = torch.arange(1, len(wrong) + 1, dtype=torch.float64)
    errors = wrong.double()[confidence.argsort(descending=True, stable=True)].cumsum(dim=0)
    return torch.stack([count / len(wrong), errors / count], dim=1)


def area_under_risk_coverage(curve: Tensor) -> float:
    """Mean risk over all coverages of :func:`risk_coverage`."""
    return float(curve[:, 1].mean())
