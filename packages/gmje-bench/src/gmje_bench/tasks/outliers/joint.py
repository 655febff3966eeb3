"""A score of how typical an image is by two densities: one of its embedding, one of its features and embedding."""

import warnings

import torch
from torch import Tensor

from gmje_core import GaussianMixture, JointEmbeddingMixture
from gmje_core.densities.covariance import SphericalCovariance
from gmje_core.errors import ConvergenceWarning
from gmje_core.linalg import safe_cholesky, triangular_inverse

__all__ = ["JointScore", "fit_kernels", "fit_pairs"]

# Most training images that the densities are fitted to, and the share of them that is set aside.
_IMAGES, _ASIDE = 10_000, 0.1
# Widths that kernels choose from, in units of the views' standard deviation.
_WIDTHS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.8)
# Ridges on covariances, in units of their mean variance: of views about their image, of features and embeddings.
_VIEW_RIDGE, _PAIR_RIDGE = 1e-3, 1e-5
# Components of the joint mixture and its rounds of EM.
_COMPONENTS, _ROUNDS = 5, 8
# A component needs so many images; with fewer images there are fewer components.
_IMAGES_A_COMPONENT = 20
# Rows that are scored at a time.
_ROWS = 500


class JointScore:
    r"""How typical images are of the training images; larger is more typical.

    .. math:: \frac{\log q(z) - m_1}{s_1} + \frac{\log q(f, z) - m_2}{s_2}

    The first density has a kernel on the embedding of every training image (:func:`fit_kernels`): it knows what lies
    between the images, such as a mean of two of them. The second one is a joint mixture of features and embedding
    (:func:`fit_pairs`): it knows what the head forgets. Means :math:`m` and standard deviations :math:`s` of both
    log-densities are those of a tenth of the images that is set aside, so that neither outweighs the other, whatever
    its dimensions.

    It takes at most 10,000 images, ``8 n D^2`` operations a round of EM for ``D`` features and embedding coordinates,
    and ``40 D^2`` bytes a component and more while an M-step makes them.

    Args:
        features: ``(N, F)``, backbone features of the training images.
        embeddings: ``(N, d)``.
        views: ``(N, d)`` and ``(N, d)``, embeddings of two views of each.
        seed: Seed of the choice of images and of the start of EM.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> z = torch.randn(400, 2)
        >>> score = JointScore(z, z, (z + 0.1 * torch.randn(400, 2), z + 0.1 * torch.randn(400, 2)), seed=0)
        >>> near, far = torch.zeros(1, 2), torch.full((1, 2), 9.0)
        >>> bool(score(near, near) > score(far, far))
        True
    """

    def __init__(self, features: Tensor, embeddings: Tensor, views: tuple[Tensor, Tensor], seed: int) -> None:
        order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(seed))[:_IMAGES]
        count = max(2, round(_ASIDE * len(order)))
        aside, rest = order[:count], order[count:]
        self._kernels = fit_kernels(embeddings[rest], (views[0][rest], views[1][rest]), embeddings[aside])
        self._pairs = fit_pairs(features[rest], embeddings[rest], seed)
        self._places = [
            (float(found.mean()), max(float(found.std()), 1e-12))
            for found in self._log_densities(features[aside], embeddings[aside])
        ]

    def __call__(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Scores ``(M,)`` float64 of images with features ``(M, F)`` and embeddings ``(M, d)``."""
        found = self._log_densities(features, embeddings)
        parts = [(log_prob - mean) / spread for log_prob, (mean, spread) in zip(found, self._places, strict=True)]
        return parts[0] + parts[1]

    def _log_densities(self, features: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return self._kernels.log_prob(embeddings), self._pairs.log_prob(features, embeddings)


class Kernels:
    r"""A Gaussian kernel on every row, :math:`\tfrac{1}{N} \sum_i N(z; z_i, h^2 W)`.

    Args:
        rows: ``(N, d)``.
        whiten: ``(d, d)``, whose product with a row has unit covariance where the row has :math:`W`.
        width: :math:`h`.
    """

    def __init__(self, rows: Tensor, whiten: Tensor, width: float) -> None:
        self._whiten, self.width = whiten, width
        self._volume = float(torch.linalg.slogdet(whiten).logabsdet)
        means = (rows.double() @ whiten.T).float()
        variance = SphericalCovariance(torch.full((1,), width**2), rows.shape[1])
        self._mixture = GaussianMixture(torch.zeros(len(means)), means, variance)

    @torch.no_grad()
    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-densities ``(M,)`` in nats of rows ``(M, d)``, float64."""
        parts = (rows.double() @ self._whiten.T).float().split(_ROWS)
        return torch.cat([self._mixture.log_prob(part).double() for part in parts]) + self._volume


def fit_kernels(embeddings: Tensor, views: tuple[Tensor, Tensor], held_out: Tensor) -> Kernels:
    r"""A kernel on the embedding of every image, of the shape that the views of an image have.

    .. math:: W = \tfrac{1}{2}\, E[(z_c - z_t)(z_c - z_t)^\top]

    is the covariance of views about their image. The width is the one under which held-out images are likeliest.

    Args:
        embeddings: ``(N, d)``.
        views: ``(N, d)`` and ``(N, d)``, embeddings of two views of each image.
        held_out: ``(M, d)``, embeddings of other images.
    """
    difference = views[0].double() - views[1].double()
    within = difference.T @ difference / (2 * len(difference))
    eye = torch.eye(len(within)).to(within)
    whiten = triangular_inverse(safe_cholesky(within + (_VIEW_RIDGE * within.diagonal().mean()).clamp_min(1e-24) * eye))
    tried = (Kernels(embeddings, whiten, width) for width in _WIDTHS)
    return max(tried, key=lambda kernels: float(kernels.log_prob(held_out).mean()))


class FeaturePairs:
    """A joint mixture of features and embedding, whitened together.

    Args:
        mean: ``(D,)`` mean of features and embedding.
        whiten: ``(D, D)``.
        mixture: The mixture of whitened rows, its two views the places of features and embedding.
        size: Number of features.
    """

    def __init__(self, mean: Tensor, whiten: Tensor, mixture: JointEmbeddingMixture, size: int) -> None:
        self._mean, self._whiten, self._mixture, self._size = mean, whiten, mixture, size

    @torch.no_grad()
    def log_prob(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Log-densities ``(M,)`` in nats up to a constant, float64."""
        rows = whitened(features, embeddings, self._mean, self._whiten)
        parts = [part.split([self._size, part.shape[1] - self._size], dim=1) for part in rows.split(_ROWS)]
        return torch.cat([self._mixture.density_.log_prob(*part).double() for part in parts])


def fit_pairs(features: Tensor, embeddings: Tensor, seed: int) -> FeaturePairs:
    """A mixture of full covariances, each shrunk toward the pooled one, by a few rounds of EM.

    Args:
        features: ``(N, F)``.
        embeddings: ``(N, d)`` of the same images.
        seed: Seed of the start.
    """
    rows = joined(features, embeddings)
    mean, covariance = rows.mean(dim=0), torch.cov(rows.T, correction=0)
    ridge = (_PAIR_RIDGE * covariance.diagonal().mean()).clamp_min(1e-24) * torch.eye(len(mean)).to(covariance)
    whiten = triangular_inverse(safe_cholesky(covariance + ridge))
    parts = whitened(features, embeddings, mean, whiten).split([features.shape[1], embeddings.shape[1]], dim=1)
    mixture = JointEmbeddingMixture(
        max(1, min(_COMPONENTS, len(rows) // _IMAGES_A_COMPONENT)),
        "full",
        covariance_prior=float(rows.shape[1]),
        reg_covar=_PAIR_RIDGE,
        max_iter=_ROUNDS,
        init_params="kmeans",
        random_state=seed,
        dtype="float32",
    )
    with warnings.catch_warnings():
        # A mixture whose likelihood could still rise is good enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(*parts)
    return FeaturePairs(mean, whiten, mixture, features.shape[1])


def joined(features: Tensor, embeddings: Tensor) -> Tensor:
    """Features and embeddings side by side ``(N, F + d)``, float64."""
    return torch.cat([features.double(), embeddings.double()], dim=1)


def whitened(features: Tensor, embeddings: Tensor, mean: Tensor, whiten: Tensor) -> Tensor:
    """Features and embeddings ``(N, F + d)`` about their mean, whitened, float32."""
    return ((joined(features, embeddings) - mean) @ whiten.T).float()
