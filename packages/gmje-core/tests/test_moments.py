"""Merging moments is exact: batch by batch gives what the whole data would."""

import pytest
import torch

from gmje_core.estimation.moments import MomentSums, batch_moments, merge_moments, pooled_covariance


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_merged_batches_are_the_whole(diagonal, offset):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(90, 4, generator=g, dtype=torch.float64) + offset
    r = torch.rand(90, 3, generator=g, dtype=torch.float64)
    moments = batch_moments(x[:30], r[:30], diagonal=diagonal)
    for count, (xs, rs) in enumerate(zip(x[30:].split(30), r[30:].split(30), strict=True), start=2):
        moments = merge_moments(moments, batch_moments(xs, rs, diagonal=diagonal), 1 / count)
    for got, expected in zip(moments, batch_moments(x, r, diagonal=diagonal), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_weighted_covariance_against_the_definition():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=g, dtype=torch.float64)
    r = torch.rand(50, 2, generator=g, dtype=torch.float64)
    mass, means, covariances = batch_moments(x, r)
    for k in range(2):
        w = r[:, k] / r[:, k].sum()
        mean = (w[:, None] * x).sum(0)
        torch.testing.assert_close(mass[k], r[:, k].mean())
        torch.testing.assert_close(means[k], mean)
        torch.testing.assert_close(covariances[k], torch.cov(x.T, aweights=w, correction=0))


def test_chunks_of_components_change_nothing(monkeypatch):
    x, r = torch.randn(20, 3, dtype=torch.float64), torch.rand(20, 7, dtype=torch.float64)
    whole = batch_moments(x, r)
    monkeypatch.setattr("gmje_core.estimation.moments._MOST_ELEMENTS", 1)
    for got, expected in zip(batch_moments(x, r), whole, strict=True):
        torch.testing.assert_close(got, expected)


def test_component_without_mass_stays_where_it_was():
    old = (torch.tensor([0.5, 0.5]), torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]))
    new = batch_moments(torch.randn(9, 1), torch.tensor([1.0, 0.0]).expand(9, 2), diagonal=True)
    mass, means, second = merge_moments(old, new, 0.25)
    assert mass[1] == 0.375
    assert means[1] == 2
    assert second[1] == 4


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("apart", [1.0, 1e3, 1e6, 1e8])
def test_components_far_apart_lose_no_digits(apart, diagonal):
    """A difference of squares about the batch's mean is wrong by 40 where clusters of unit width are 1e8 apart."""
    g = torch.Generator().manual_seed(0)
    offsets = apart * torch.tensor([-1.0, 1.0], dtype=torch.float64)[torch.arange(200) % 2]
    x = torch.randn(200, 3, generator=g, dtype=torch.float64) + offsets[:, None]
    share = torch.nn.functional.one_hot(torch.arange(200) % 2, 3)  # the third component owns nothing
    mass, mean, covariance = batch_moments(x, share.double(), diagonal=diagonal, centred=True)
    for k in (0, 1):
        expected = torch.cov(x[k::2].T, correction=0)
        torch.testing.assert_close(covariance[k], expected.diagonal() if diagonal else expected, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(mean[k], x[k::2].mean(dim=0))
    assert mass.tolist() == [0.5, 0.5, 0.0]
    assert covariance.isfinite().all()


@pytest.mark.parametrize("diagonal", [False, True])
def test_moments_of_a_float32_batch(diagonal):
    # E[x^2] - E[x]^2 in float32 is noise once the mean is a thousand times the deviation.
    x = torch.randn(500, 4) + 3e3
    exact = batch_moments(x.double(), diagonal=diagonal)[2]
    torch.testing.assert_close(batch_moments(x, diagonal=diagonal)[2].double(), exact, rtol=1e-3, atol=1e-3)
    naive = x.square().mean(dim=0) - x.mean(dim=0).square()
    variance = exact if diagonal else exact.diagonal()
    assert (naive.double() - variance).abs().max() > 0.1  # what is avoided


def test_sums_of_blocks_are_the_moments_of_all_rows():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(90, 4, generator=g, dtype=torch.float64) + 1e6
    r = torch.rand(90, 3, generator=g, dtype=torch.float64)
    sums = MomentSums(torch.full((3, 4), 1e6))
    for xs, rs in zip(x.split(40), r.split(40), strict=True):
        sums.add(xs, rs)
    for got, expected in zip(sums.moments(), batch_moments(x - 1e6, r), strict=True):
        offset = 1e6 if got.shape == (3, 4) else 0.0
        torch.testing.assert_close(got - offset, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("diagonal", [False, True])
def test_pooled_covariance_is_the_covariance_of_all_rows_less_that_of_the_means(diagonal):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=g, dtype=torch.float64)
    share = torch.softmax(torch.randn(60, 4, generator=g, dtype=torch.float64), dim=1)
    mass, means, second = batch_moments(x, share, diagonal=diagonal)
    between = torch.cov(means.T, aweights=mass, correction=0)
    expected = torch.cov(x.T, correction=0) - between
    got = pooled_covariance(mass, second)
    torch.testing.assert_close(got, expected.diagonal() if diagonal else expected)
