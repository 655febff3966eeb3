"""The evaluation protocol holds every constant that a number depends on, under one version.

Changing a value changes what the numbers mean, and therefore the version.
"""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PROTOCOL", "Protocol"]


@dataclass(frozen=True)
class Protocol:
    """Frozen backbone features after the last epoch are measured; no choice is made on the test split.

    Attributes:
        version: The version of the whole protocol.
        knn_k: Number of neighbours of the weighted kNN.
        knn_temperature: Temperature that cosine similarities are divided by in the weighted kNN.
        probe_c: Inverse regularisation strengths that the linear probe chooses from.
        probe_max_iter: Largest number of L-BFGS iterations of the linear probe.
        probe_tolerance: A fit of the probe ends where a step is expected to lower the objective by half this share.
        few_label_draws: Number of draws of few labels that accuracies are averaged over.
        few_label_c: Inverse regularisation strengths that probes with few labels choose from.
        validation_fraction: Share of train, stratified, that the probe's choice is made on.
        viewed_train: Largest number of training images, balanced over the classes, whose views are embedded: those that
            the closing stage fits to, and those that tasks on views see.
        viewed_test: Largest number of test images, balanced likewise, that tasks on views see.
        view_seed: Seed of the random views that densities are evaluated on.
        outliers: Largest number of images of each kind of outliers.
        outlier_knn_k: Which neighbour's distance is the kNN score of an image.
        held_out_pairs: Number of pairs that the KL of synthetic tasks is measured on.
        distance_pairs: Number of pairs in each sample that distances of synthetic tasks compare.
        mode_contexts: Number of contexts at which the modes of synthetic tasks are counted.
        mode_samples: Number of samples at each of these contexts.
        calibration_pairs: Number of pairs that the calibration of synthetic tasks is measured on.
        calibration_samples: Number of samples that each of these pairs is ranked among.
        conditional_pairs: Number of pairs of views that the calibration of a conditional is measured on.
        conditional_samples: Number of samples that each of these pairs is ranked among.
        fitted_components: Number of components of the mixture that is fitted to the embeddings of every method.
        fitted_reg_covar: Number added to the variances of fitted densities; embeddings have unit mean variance.
        fitted_rounds: Largest number of EM rounds of fitted mixtures.
        mixture_components: Number of components of the full-covariance mixture that samples are drawn from.
        samples: Largest number of samples that are drawn from each source.
        neighbours: Number of neighbours that the reach of a point ends at, in precision, recall, density and coverage.
        decoder_steps: Steps of training of the decoder that turns embeddings into pictures.
        classifier_epochs: Epochs of the classifier whose features compare pictures.
        consolidation_passes: Most pairs of views of each training image that a density is fitted to at the end.
        consolidation_pairs: Where they are more than so many, there are fewer of each image, two at least.
        consolidation_validation: Share of the training images that are set aside for the scales of that density.
        consolidation_seed: Seed of the views of the first of these passes.
        half_features: Backbone features of larger splits than this are kept in half precision.
        density_shrinkages: Shares of the isotropic covariance that one Gaussian chooses from.
        density_kernels: Number of pairs that get a kernel.
        density_widths: Widths that kernels choose from, in standard deviations of a coordinate.
        density_full: Numbers of components that the full-covariance mixture of pairs chooses from.
        density_low_rank: Numbers of components and ranks that the mixture of factor analysers chooses from.
        density_rows: Largest number of pairs that these two mixtures are fitted to.
        density_rounds: Largest number of EM rounds of these two mixtures.
        completions: Number of answers to each context.
        completion_images: The decoder of completions is trained on about so many images at most.
        regression_steps: Steps of training of a least-squares decoder.
        feature_batch: Number of images in a chunk of feature extraction, the same for any number of processes.
    """

    version: str = "6"
    knn_k: int = 20
    knn_temperature: float = 0.1
    probe_c: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    probe_max_iter: int = 300
    probe_tolerance: float = 1e-6
    few_label_draws: int = 5
    few_label_c: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)
    validation_fraction: float = 0.1
    viewed_train: int = 60_000
    viewed_test: int = 10_000
    view_seed: int = 2**20
    outliers: int = 1000
    outlier_knn_k: int = 1
    held_out_pairs: int = 10_000
    distance_pairs: int = 2000
    mode_contexts: int = 256
    mode_samples: int = 2000
    calibration_pairs: int = 1000
    calibration_samples: int = 100
    conditional_pairs: int = 1000
    conditional_samples: int = 40
    fitted_components: int = 10
    fitted_reg_covar: float = 1e-3
    fitted_rounds: int = 20
    mixture_components: int = 10
    samples: int = 2000
    neighbours: int = 5
    decoder_steps: int = 600
    classifier_epochs: int = 3
    consolidation_passes: int = 4
    consolidation_pairs: int = 60_000
    consolidation_validation: float = 0.1
    consolidation_seed: int = 2**21
    half_features: int = 200_000
    density_shrinkages: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    density_kernels: int = 2000
    density_widths: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    density_full: tuple[int, ...] = (5, 10, 20)
    density_low_rank: tuple[tuple[int, int], ...] = ((20, 16), (32, 32))
    density_rows: int = 9000
    density_rounds: int = 10
    completions: int = 8
    completion_images: int = 20_000
    regression_steps: int = 600
    feature_batch: int = 250

    def passes(self, images: int) -> int:
        """Pairs of views of each of so many training images that a density is fitted to.

        Examples:
            >>> [PROTOCOL.passes(images) for images in (10_000, 20_000, 60_000)]
            [4, 3, 2]
        """
        return min(self.consolidation_passes, max(2, self.consolidation_pairs // images))

    def to_dict(self) -> dict[str, Any]:
        """All constants as plain data, for the results."""
        return asdict(self)


PROTOCOL = Protocol()
