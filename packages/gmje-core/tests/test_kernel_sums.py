"""Log-sums of kernels between the samples of a batch, beside the plain formula on all differences."""

import pytest
import torch

from gmje_core.objectives import kernel_sums
from gmje_core.objectives.kernel_sums import log_sums_over_others


def plain(z, precision, groups):
    """All differences, and a mask of the samples of the same item."""
    item = torch.arange(len(z)) % (len(z) // groups)
    scores = -0.5 * precision[:, None] * (z[:, None] - z[None]).square().sum(dim=-1)
    return scores.masked_fill(item[:, None] == item[None], -torch.inf).logsumexp(dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize(("scores", "groups"), [(1, 2), (50, 2), (10**6, 2), (50, 3), (50, 1)])
def test_blocks_give_the_values_and_gradients_of_the_plain_formula(scores, groups, offset, dtype, monkeypatch):
    monkeypatch.setattr(kernel_sums, "_SCORES", scores)
    generator = torch.Generator().manual_seed(0)
    z = (offset + torch.randn(groups * 7, 4, generator=generator)).to(dtype).requires_grad_()
    precision = 0.5 + torch.rand(groups * 7, generator=generator).to(dtype)
    weights = torch.randn(groups * 7, generator=generator).to(dtype)
    wide = z.detach().double().requires_grad_()
    expected = plain(wide, precision.double(), groups)
    found = log_sums_over_others(z, precision, groups)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(found.double(), expected, **tolerance)
    (ours,) = torch.autograd.grad((found * weights).sum(), z)
    (theirs,) = torch.autograd.grad((expected * weights.double()).sum(), wide)
    torch.testing.assert_close(ours.double(), theirs, **tolerance)


def test_squares_that_overflow_show():
    sums = log_sums_over_others(torch.tensor([[1e30], [-1e30], [0.0], [1.0]]), torch.ones(4))
    assert not sums.isfinite().all()


def test_a_second_gradient_is_refused():
    z = torch.randn(4, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="log_sums_over_others can be differentiated once"):
        torch.autograd.grad(log_sums_over_others(z, torch.ones(4)).sum(), z, create_graph=True)
