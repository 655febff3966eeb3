"""Operations over components in bounded memory."""

import pytest
import torch
from density_cases import TYPES, Largest, mixture_of

from gmje_core.densities import blockwise
from gmje_core.densities.blockwise import (
    add_components,
    apply_matrices,
    drawn_rows,
    gather_components,
    gathered_product,
    rows_of_components,
)

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("kind", TYPES)
def test_only_the_component_drawn_is_gathered(kind):
    count, components, dim = 2000, 400, 8
    mixture = mixture_of(kind, components, dim)
    with Largest() as largest:
        mixture.sample((count,))
    assert largest.elements <= max(2 * count * dim**2, components * dim**2)
    assert largest.elements < count * components * dim / 10  # all components, then a choice


@pytest.mark.parametrize("chunk", [1, 7, 2**18])
@pytest.mark.parametrize("batch", [(4,), (5, 4), (1, 4), (5, 1)])
def test_gathering_is_indexing_of_the_expanded_parameter(batch, chunk, monkeypatch):
    monkeypatch.setattr(blockwise, "CHUNK", chunk)
    matrices = torch.randn(*batch, 3, 2)
    index = torch.randint(4, (6, 5) if len(batch) == 2 else (6,))
    rows = torch.arange(5).expand(6, 5)
    expanded = matrices.expand(5, 4, 3, 2) if len(batch) == 2 else matrices
    expected = expanded[rows, index] if len(batch) == 2 else expanded[index]
    assert torch.equal(gather_components(matrices, index, len(batch)), expected)
    vectors = torch.randn(*index.shape, 2)
    product = gathered_product(matrices, index, vectors)
    torch.testing.assert_close(product, (expected @ vectors.unsqueeze(-1)).squeeze(-1))


@pytest.mark.parametrize("shared", [1, 100])  # with the vectors of each matrix brought together, and without
def test_a_product_does_not_depend_on_how_vectors_are_brought_together(shared, monkeypatch):
    monkeypatch.setattr(blockwise, "_SHARED", shared)
    matrices, index, vectors = torch.randn(4, 3, 2), torch.randint(3, (6, 5)), torch.randn(6, 5, 2)
    expected = (matrices[index] @ vectors.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(gathered_product(matrices, index, vectors), expected)
    rows = rows_of_components(index, 4)
    assert [sorted(part.tolist()) for part in rows] == [
        (index.flatten() == k).nonzero()[:, 0].tolist() for k in range(4)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(4,), (1,), (5, 4), (1, 4), (5, 1)])
@pytest.mark.parametrize("drawn", [32, 10_000])
def test_draws_are_products_with_the_noise_of_one_call(batch, drawn, dtype, monkeypatch):
    monkeypatch.setattr(blockwise, "_DRAWN", drawn)
    monkeypatch.setattr(blockwise, "_DRAWN_OF_EACH", 4)
    matrices, means = torch.randn(*batch, 3, 2, dtype=dtype), torch.randn(*batch, 3, dtype=dtype)
    index = torch.randint(batch[-1], (40, 5))
    torch.manual_seed(5)
    noise = torch.randn(40, 5, 2, dtype=dtype)
    expected = gather_components(means, index, len(batch)) + gathered_product(matrices, index, noise)
    torch.manual_seed(5)
    torch.testing.assert_close(drawn_rows(matrices.requires_grad_(), means, index), expected)


@pytest.mark.parametrize("batch", [(4,), (5, 4), (1, 4), (5, 1)])
def test_rows_are_added_to_those_of_their_components(batch, monkeypatch):
    monkeypatch.setattr(blockwise, "CHUNK", 4)
    tensor, index = torch.randn(*batch, 3), torch.randint(4, (6, 5) if len(batch) == 2 else (6,))
    values = torch.randn(*index.shape, 3)
    expected = values + gather_components(tensor, index, len(batch))
    assert torch.equal(add_components(values, tensor, index), expected)


@pytest.mark.parametrize("lead", [(), (4,), (5, 4), (2, 5, 4)])
def test_matrices_are_applied_to_leading_axes_that_only_vectors_have(lead):
    matrices, vectors = torch.randn(4, 3, 3).tril() + 3 * torch.eye(3), torch.randn(*lead[:-1], 4, 3)
    torch.testing.assert_close(apply_matrices(matrices, vectors), (matrices @ vectors.unsqueeze(-1)).squeeze(-1))
    solved = apply_matrices(matrices, vectors, solve=True)
    torch.testing.assert_close((matrices @ solved.unsqueeze(-1)).squeeze(-1), vectors)
