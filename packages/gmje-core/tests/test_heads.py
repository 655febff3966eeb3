"""The projection head: unit norm, its precision, its gradient at zero, and sizes that are refused."""

import pytest
import torch

from gmje_core import ConfigError
from gmje_core.models.heads import ProjectionHead


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heads_give_unit_norm_in_their_own_dtype(layers, dtype):
    torch.manual_seed(0)
    head = ProjectionHead(16, 32, 8, layers=layers).to(dtype)
    z = head(torch.randn(64, 16, dtype=dtype))
    assert z.dtype == dtype
    torch.testing.assert_close(z.norm(dim=1), torch.ones(64, dtype=dtype))
    assert len([m for m in head.modules() if isinstance(m, torch.nn.Linear)]) == layers
    assert len([m for m in head.modules() if isinstance(m, torch.nn.BatchNorm1d)]) == layers - 1


def test_the_norm_is_taken_in_float32_under_autocast():
    torch.manual_seed(0)
    head = ProjectionHead(16, 32, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = head(torch.randn(64, 16))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(64))


def test_heads_without_norm_are_affine_behind_their_last_layer():
    torch.manual_seed(0)
    head = ProjectionHead(16, 32, 8, layers=1, normalize=False)
    x, y = torch.randn(2, 5, 16)
    torch.testing.assert_close(head(x + y) + head(torch.zeros(5, 16)), head(x) + head(y))


def test_a_zero_embedding_stays_finite():
    head = ProjectionHead(4, 4, 4, layers=1)
    torch.nn.init.zeros_(head.layers[0].bias)
    x = torch.zeros(2, 4, requires_grad=True)
    z = head(x)
    z.sum().backward()
    assert torch.equal(z, torch.zeros(2, 4))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("change", ["in_features", "hidden", "out_features", "layers"])
def test_sizes_of_heads_are_checked(change):
    sizes = {"in_features": 4, "hidden": 4, "out_features": 4, "layers": 2} | {change: 0}
    with pytest.raises(ConfigError, match=f"{change} must be at least 1, got 0"):
        ProjectionHead(**sizes)
