"""Our NT-Xent against lightly's, value and gradient."""

import pytest
import torch
from lightly.loss import NTXentLoss

from gmje_core.objectives import nt_xent


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("batch", "dim"), [(2, 3), (16, 8), (64, 32)])
def test_nt_xent_equals_lightly(batch, dim, temperature):
    torch.manual_seed(0)
    z_context = torch.randn(batch, dim, dtype=torch.float64, requires_grad=True)
    z_target = (z_context + torch.randn(batch, dim)).detach().requires_grad_()
    ours, theirs = nt_xent(z_context, z_target, temperature), NTXentLoss(temperature)(z_context, z_target)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(ours, (z_context, z_target)),
        torch.autograd.grad(theirs, (z_context, z_target)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
