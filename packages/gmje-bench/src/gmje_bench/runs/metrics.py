"""What the numbers of a run are: the title, unit and direction of every metric that a task may measure."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ANSWERS", "KINDS", "METRICS", "OUTLIER_KINDS", "OUTLIER_SCORES", "SOURCES", "Metric"]


class Metric(BaseModel):
    """What a number is."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(description="Words for tables and axes.")
    unit: str = Field(default="", description="The unit; empty for a pure number.")
    higher_is_better: bool
    task: str = Field(description="The task that measures it.")
    headline: bool = Field(default=False, description="Whether short tables show it.")


def _metrics(task: str, **metrics: tuple[str, str, bool, bool]) -> dict[str, Metric]:
    return {
        name: Metric(title=title, unit=unit, higher_is_better=higher, task=task, headline=headline)
        for name, (title, unit, higher, headline) in metrics.items()
    }


#: The densities that samples are drawn from: one was learned in training, the others are fitted afterwards to the
#: embeddings of any method.
SOURCES = {
    "learned": "the density learned in training",
    "gaussian": "one Gaussian, fitted afterwards",
    "kde": "a kernel density, fitted afterwards",
    "mixture": "a full-covariance mixture, fitted afterwards",
}


#: Kinds of outliers, the nearest first.
OUTLIER_KINDS = {
    "held_out": "classes held out of training",
    "corrupted": "corrupted test images",
    "mixed": "means of two test images",
    "digits": "handwritten digits",
    "noise": "noise",
}
#: Scores that outliers are told from test images by.
OUTLIER_SCORES = {
    "density": "learned density",
    "joint": "densities of embeddings and features",
    "fitted": "mixture fitted afterwards",
    "mahalanobis": "Mahalanobis, features",
    "class_mahalanobis": "Mahalanobis by class, features",
    "knn": "kNN, features",
    "embedding_mahalanobis": "Mahalanobis, embeddings",
    "embedding_knn": "kNN, embeddings",
}


def _outliers() -> dict[str, Metric]:
    """Both measures of detection, for every kind of outliers and every score."""
    measures = {"auroc": ("AUROC", True), "fpr95": ("FPR at 95 %", False)}
    return {
        f"{measure}.{kind}.{score}": Metric(
            title=f"{title}, {kind_title}, {score_title}",
            higher_is_better=higher,
            task="outliers",
            headline=(measure, score) == ("auroc", "joint") and kind in ("held_out", "corrupted"),
        )
        for measure, (title, higher) in measures.items()
        for kind, kind_title in OUTLIER_KINDS.items()
        for score, score_title in OUTLIER_SCORES.items()
    }


def _by_kind(
    task: str,
    measures: dict[str, tuple[str, str, bool]],
    kinds: tuple[str, ...],
    headlines: tuple[str, ...],
    without: tuple[str, ...] = (),
) -> dict[str, Metric]:
    """Every measure (title, unit, whether higher is better) of every kind of density, named ``measure.kind``."""
    return {
        f"{measure}.{kind}": Metric(
            title=f"{title}, {kind}",
            unit=unit,
            higher_is_better=higher,
            task=task,
            headline=f"{measure}.{kind}" in headlines,
        )
        for kind in kinds
        for measure, (title, unit, higher) in measures.items()
        if f"{measure}.{kind}" not in without
    }


def _sampling() -> dict[str, Metric]:
    """Every measure of samples, for every source of them."""
    measures = {
        "frechet": ("Fréchet", "", False),
        "image_frechet": ("Fréchet to images", "", False),
        "decoded_frechet": ("Fréchet to decoded", "", False),
        "nearest_frechet": ("Fréchet of nearest images", "", False),
        "precision": ("precision", "", True),
        "recall": ("recall", "", True),
        "density": ("density", "", True),
        "coverage": ("coverage", "", True),
        "mmd": ("MMD", "", False),
        "nll": ("NLL", "nats", False),
    }
    headlines = ("frechet.learned", "frechet.mixture")
    return _by_kind("sampling", measures, (*SOURCES, "real"), headlines, without=("nll.real",))


#: The kinds of densities of pairs: those of the method itself, and those that are fitted afterwards.
KINDS = {
    "learned": "the density that answers",
    "critic": "the critic, which trained the encoder",
    "gaussian": "one Gaussian, fitted afterwards",
    "kde": "kernels, fitted afterwards",
    "mixture": "a full-covariance mixture, fitted afterwards",
    "factors": "a mixture of factor analysers, fitted afterwards",
    "scaled": "a mixture with scales, fitted afterwards",
    "best": "the best of the usual families on validation pairs",
}


def _density() -> dict[str, Metric]:
    """Every measure of densities of pairs, for every kind of them."""
    measures = {
        "joint_nll": ("joint NLL", "nats", False),
        "joint_over_gaussian": ("joint NLL over one Gaussian's", "nats", False),
        "conditional_nll": ("conditional NLL", "nats", False),
        "conditional_over_gaussian": ("conditional NLL over one Gaussian's", "nats", False),
        "calibration": ("calibration error", "", False),
        "frechet_over_floor": ("Fréchet over floor", "", False),
        "sample_precision": ("precision", "", True),
        "sample_coverage": ("coverage", "", True),
    }
    headlines = ("joint_over_gaussian.learned", "joint_over_gaussian.best")
    return _by_kind("density", measures, tuple(KINDS), headlines)


#: The kinds of answers to a context: of densities, of a predictor, and what they are compared with.
ANSWERS = {
    "learned": "the density that answers",
    "scaled": "a mixture with scales, fitted afterwards",
    "gaussian": "one Gaussian, fitted afterwards",
    "predictor": "one answer, by least squares",
    "true": "the true embedding, decoded",
    "real": "pixels of the nearest contexts",
}


def _completion() -> dict[str, Metric]:
    """Every measure of answers, for every kind of them that has it."""
    measures = {
        "completion_best": ("error of the best of 8", "", False),
        "completion_error": ("error of one", "", False),
        "completion_wins": ("nearer than the predictor", "", True),
        "completion_diversity": ("diversity", "", True),
        "completion_sharpness": ("sharpness", "", True),
        "completion_nll": ("conditional NLL", "nats", False),
        "completion_calibration": ("calibration error", "", False),
    }
    of_one = ("completion_error", "completion_sharpness")
    lacking = {f"{name}.{kind}" for name in measures if name not in of_one for kind in ("predictor", "true")}
    lacking |= {f"completion_{name}.real" for name in ("sharpness", "nll", "calibration")}
    headlines = ("completion_best.learned", "completion_error.predictor")
    return _by_kind("completion", measures, tuple(ANSWERS), headlines, without=tuple(lacking))


#: Every metric that a record may hold.
METRICS: dict[str, Metric] = {
    **_metrics(
        "linear_probe",
        linear_probe=("linear probe", "%", True, True),
        linear_probe_top5=("linear probe, top 5", "%", True, False),
    ),
    **_metrics("knn", knn=("kNN", "%", True, True), knn_top5=("kNN, top 5", "%", True, False)),
    **_metrics(
        "few_labels",
        few_labels_1=("probe, 1 % of labels", "%", True, True),
        few_labels_10=("probe, 10 % of labels", "%", True, True),
    ),
    **_metrics("effective_rank", effective_rank=("effective rank", "", True, True)),
    **_metrics(
        "uncertainty",
        ood_auroc=("OOD AUROC", "", True, True),
        ood_auroc_fitted=("OOD AUROC, fitted", "", True, False),
        aurc=("AURC", "", False, False),
        aurc_fitted=("AURC, fitted", "", False, False),
        aurc_softmax=("AURC, softmax", "", False, False),
        conditional_hpd=("HPD error", "", False, False),
        conditional_hpd_fitted=("HPD error, fitted", "", False, False),
        conditional_ece=("calibration error", "", False, True),
        conditional_ece_fitted=("calibration error, fitted", "", False, False),
        marginal_ece_context=("calibration error of contexts", "", False, False),
        marginal_ece_context_fitted=("calibration error of contexts, fitted", "", False, False),
        marginal_ece_target=("calibration error of targets", "", False, False),
        marginal_ece_target_fitted=("calibration error of targets, fitted", "", False, False),
    ),
    **_sampling(),
    **_density(),
    **_completion(),
    **_outliers(),
    **_metrics(
        "synthetic",
        kl=("KL to truth", "nats", False, True),
        kl_standard_error=("its standard error", "nats", False, False),
        theory=("KL by theory", "nats", False, True),
        energy=("energy distance", "", False, True),
        wasserstein=("sliced Wasserstein", "", False, False),
        recall=("mode recall", "", True, True),
        weights=("weight error", "", False, True),
        hpd=("HPD error", "", False, True),
        pit=("PIT error", "", False, True),
    ),
}
