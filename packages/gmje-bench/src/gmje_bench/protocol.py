"""The evaluation protocol: every constant that a number depends on, under one version.

Changing a value changes what the numbers mean, and therefore the version.
"""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PROTOCOL", "Protocol"]


@dataclass(frozen=True)
class Protocol:
    """Version 2: frozen backbone features, last epoch, no choice made on the test split.

    Attributes:
        version: Of the whole protocol.
        knn_k: Neighbours of the weighted kNN.
        knn_temperature: Its temperature, on cosine similarities.
        probe_c: Inverse regularisation strengths that the linear probe chooses from.
        probe_max_iter: Iterations of L-BFGS at most.
        validation_fraction: Share of train, stratified, that the probe's choice is made on.
        view_seed: Of the random views that densities are evaluated on.
        outliers: Images of no class that the density is asked about.
        held_out_pairs: Of the KL of synthetic tasks.
        distance_pairs: Of their distances between samples.
        mode_contexts: Contexts at which their modes are counted.
        mode_samples: Samples at each of them.
        calibration_pairs: Of their calibration.
        calibration_samples: Samples that each is ranked among.
        conditional_pairs: Pairs of views that the calibration of a conditional is measured on.
        conditional_samples: Samples that each is ranked among.
        fitted_components: Of the mixture of pairs that is fitted to every method's embeddings.
        fitted_reg_covar: Added to the variances of fitted densities, of embeddings of unit mean variance.
        fitted_rounds: Of their EM, at most.
        mixture_components: Of the mixture with full covariances that samples are drawn from.
        samples: Of every source, at most.
        neighbours: That end the reach of a point, for precision, recall, density and coverage.
        decoder_epochs: Of the decoder that turns embeddings into pictures.
        classifier_epochs: Of the classifier whose features compare pictures.
        feature_batch: Images in a chunk of feature extraction, the same for any number of processes.
    """

    version: str = "2"
    knn_k: int = 20
    knn_temperature: float = 0.1
    probe_c: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    probe_max_iter: int = 300
    validation_fraction: float = 0.1
    view_seed: int = 2**20
    outliers: int = 1000
    held_out_pairs: int = 10_000
    distance_pairs: int = 2000
    mode_contexts: int = 256
    mode_samples: int = 2000
    calibration_pairs: int = 1000
    calibration_samples: int = 100
    conditional_pairs: int = 400
    conditional_samples: int = 40
    fitted_components: int = 10
    fitted_reg_covar: float = 1e-3
    fitted_rounds: int = 20
    mixture_components: int = 10
    samples: int = 2000
    neighbours: int = 5
    decoder_epochs: int = 6
    classifier_epochs: int = 3
    feature_batch: int = 250

    def to_dict(self) -> dict[str, Any]:
        """Plain data for results."""
        return asdict(self)


PROTOCOL = Protocol()
