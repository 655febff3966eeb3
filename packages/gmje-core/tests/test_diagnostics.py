"""The gauges against their definitions, and the verdicts on embeddings built to deserve them."""

import pytest
import torch

from gmje_core import diagnostics
from gmje_core.errors import NonFiniteError, ShapeError


def embeddings(rank: int, n: int = 512, dim: int = 32, offset: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(rank)
    return torch.randn(n, rank, generator=g) @ torch.randn(rank, dim, generator=g) + offset


@pytest.mark.parametrize("shape", [(200, 7), (7, 200)], ids=["tall", "wide"])
def test_effective_rank_is_the_entropy_of_the_singular_values(shape):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.linalg.svdvals(z - z.mean(0))
    p = p / p.sum()
    expected = torch.exp(-(p * torch.log(p.clamp_min(1e-300))).sum())
    # Singular values through a Gram matrix are exact to the square root of the precision.
    torch.testing.assert_close(diagnostics.effective_rank(z), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_effective_rank_ignores_offset_scale_and_rotation(offset):
    z = embeddings(8).double()
    q, _ = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(
        diagnostics.effective_rank(3 * z @ q + offset), diagnostics.effective_rank(z), rtol=1e-6, atol=1e-6
    )


def test_effective_rank_of_isotropic_embeddings_is_their_dimension():
    z = torch.cat([torch.eye(16), -torch.eye(16)])
    assert diagnostics.effective_rank(z).item() == pytest.approx(16)


def test_log_det_per_dim_falls_by_the_log_of_the_scale():
    z = embeddings(32).double()
    difference = diagnostics.log_det_per_dim(z, 0.0) - diagnostics.log_det_per_dim(z / 10, 0.0)
    assert difference.item() == pytest.approx(2 * torch.log(torch.tensor(10.0)).item())


def test_trace_ratio_of_own_covariance_is_exactly_one():
    z = torch.randn(64, 5, dtype=torch.float64)
    centred = z - z.mean(0)
    distances = (centred @ torch.linalg.inv(centred.T @ centred / 64) * centred).sum(1)
    assert diagnostics.trace_ratio(distances, 5).item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("z", "verdict"),
    [
        (embeddings(32), "healthy"),
        (embeddings(2), "dimensional collapse"),
        (1e-6 * embeddings(32) + 1.0, "complete collapse"),
        (torch.ones(64, 32), "complete collapse"),
        (embeddings(32).bfloat16(), "healthy"),
        (embeddings(2, dim=2), "healthy"),
        (1e-8 * embeddings(32), "healthy"),  # scale alone is no collapse
        (1e8 * embeddings(32), "healthy"),
    ],
)
def test_verdict_on_embeddings(z, verdict):
    assert diagnostics.judge(diagnostics.embedding_diagnostics(z, z)).name == verdict


def test_arrays_have_the_gauges_of_tensors():
    z = torch.stack([embeddings(8), embeddings(32)])
    for pair in (z, z.bfloat16().float(), 1e6 * z + 1.0):
        assert diagnostics.embedding_diagnostics(*pair.numpy()) == diagnostics.embedding_diagnostics(*pair)
    cosine = torch.nn.functional.cosine_similarity(*z.double(), dim=1).mean().item()
    assert diagnostics.embedding_diagnostics(*z.numpy())["alignment"] == pytest.approx(cosine)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"trace_ratio": 1.0, "self_scored": 1.0, "effective_rank": 2.0, "dim": 128.0}, "trace trap"),
        ({"trace_ratio": 1.0, "self_scored": 0.0}, "healthy"),
        ({"component_usage": 0.01}, "dead components"),
        ({}, "healthy"),
    ],
)
def test_verdict_on_a_density(values, verdict):
    name, advice = diagnostics.judge(values)
    assert name == verdict
    assert advice.endswith(".")


def test_component_usage_counts_used_components():
    responsibilities = torch.zeros(30, 10)
    responsibilities[torch.arange(30), torch.arange(30) % 5] = 1
    assert diagnostics.component_usage(responsibilities).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("context", "target", "error", "words"),
    [
        (torch.zeros(3), torch.zeros(3), ShapeError, r"\(3,\)"),
        (torch.zeros(3, 2), torch.zeros(4, 2), ShapeError, r"\(3, 2\) and \(4, 2\)"),
        (torch.zeros(1, 2), torch.zeros(1, 2), ShapeError, "at least 2 rows"),
        (torch.tensor([[0.0], [float("nan")]]), torch.zeros(2, 1), NonFiniteError, "z_context .* row 1 of 2"),
    ],
)
def test_bad_embeddings_are_named(context, target, error, words):
    with pytest.raises(error, match=words):
        diagnostics.embedding_diagnostics(context, target)
