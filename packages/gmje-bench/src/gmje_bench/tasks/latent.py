"""Maps of the test embeddings and nearest neighbours in pictures, which are looked at and not measured."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from torch import Tensor

from gmje_bench.tasks.knn import nearest
from gmje_bench.tasks.rows import Rows
from gmje_bench.tasks.subject import Subject

__all__ = ["latent_map", "neighbours"]

_POINTS, _QUERIES, _NEIGHBOURS = 500, 8, 8


def latent_map(subject: Subject) -> dict[str, Tensor]:
    """Two maps of up to 500 test embeddings, and what to colour them by.

    Returns:
        ``latent.pca`` and ``latent.tsne`` ``(n, 2)``, ``latent.label`` ``(n,)``, and ``latent.component`` ``(n,)``,
        the most responsible component of the learned density, where there is one.
    """
    z = subject.test.embeddings[:_POINTS]
    maps = {"latent.label": subject.test.labels[: len(z)]}
    # One thread keeps the order of sums, so that the map is the same on any machine of a kind.
    with threadpool_limits(1):
        maps["latent.pca"] = torch.from_numpy(PCA(2, random_state=0).fit_transform(z.double().numpy())).float()
        maps["latent.tsne"] = _tsne(z)
    if subject.density is not None:
        context = subject.density.context
        with torch.no_grad():
            maps["latent.component"] = context.responsibilities(z.to(context.mean.dtype)).argmax(dim=1)
    return maps


def _tsne(z: Tensor) -> Tensor:
    """The map by t-SNE, ``(n, 2)``; one point where the embeddings cannot be told apart.

    It starts from principal components, as scikit-learn's ``init="pca"`` does, which divides by their spread whatever
    it is: a start of NaN ends the process.
    """
    start = PCA(2, random_state=0).fit_transform(z.numpy()).astype(np.float32, copy=False)
    spread = np.std(start[:, 0])
    if not spread > 0:
        return torch.zeros(len(z), 2)
    perplexity = min(30.0, (len(z) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init=start / spread * 1e-4, random_state=0).fit_transform(z.numpy())
    return torch.from_numpy(tsne).float()


def neighbours(subject: Subject) -> dict[str, Tensor]:
    """The training images nearest to a few test images, by cosine of features.

    Returns:
        ``neighbours.query`` uint8 ``(q, C, S, S)``, ``neighbours.images`` ``(q, k, C, S, S)`` and the labels of both,
        ``neighbours.query_label`` ``(q,)`` and ``neighbours.label`` ``(q, k)``.
    """
    test, train = subject.test, subject.train
    # One image a class as far as there are classes, so that the pictures differ.
    firsts = [int((test.labels == label).nonzero()[0]) for label in test.labels.unique()[:_QUERIES]]
    chosen = torch.tensor(firsts)
    queries = F.normalize(test.features[chosen].float(), dim=1)
    places = nearest(Rows.of(train.features), queries, min(_NEIGHBOURS, len(train.labels))).places
    return {
        "neighbours.query": test.images[chosen],
        "neighbours.query_label": test.labels[chosen],
        "neighbours.images": train.images[places.flatten()].unflatten(0, places.shape),
        "neighbours.label": train.labels[places],
    }
