"""The weighted kNN of the harness beside faiss's exact inner products and a vote."""

import sys
from collections.abc import Iterator

import faiss
import torch
from _measure import Call, Case, main
from torch import Tensor
from torch.nn import functional as F

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.knn import weighted_knn
from gmje_bench.tasks.rows import Rows

BANK, QUERIES, DIM, CLASSES = 50_000, 2_000, 512, 10
GOAL = 1.2


def cases() -> Iterator[Case]:
    """The accuracy of the vote, from raw features on both sides."""
    yield Case(
        f"weighted kNN, bank {BANK}, {QUERIES} queries, d = {DIM}, k = {PROTOCOL.knn_k}",
        "faiss IndexFlatIP and a vote",
        GOAL,
        build,
        flops=2.0 * BANK * QUERIES * DIM,
        difference=lambda ours, theirs: abs(ours - theirs),
        tolerance=0.1,  # of a per cent: two queries whose votes or neighbours tie
        memory=False,
    )


def build() -> tuple[Call, Call]:
    """Both calls on the same features and labels."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, DIM, generator=generator)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        return 0.12 * centres[labels] + torch.randn(count, DIM, generator=generator), labels

    (bank, bank_labels), (queries, labels) = drawn(BANK), drawn(QUERIES)
    rows, asked = Rows.of(bank), Rows.of(queries)

    def ours() -> float:
        return weighted_knn(rows, bank_labels, asked, labels, CLASSES, torch.device("cpu"))[0]

    def theirs() -> float:
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(DIM)
        index.add(F.normalize(bank, dim=1).numpy())
        cosine, places = map(torch.from_numpy, index.search(F.normalize(queries, dim=1).numpy(), PROTOCOL.knn_k))
        votes = torch.zeros(len(queries), CLASSES)
        votes.scatter_add_(1, bank_labels[places], (cosine / PROTOCOL.knn_temperature).exp())
        return 100.0 * float((votes.argmax(dim=1) == labels).float().mean())

    return ours, theirs


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
