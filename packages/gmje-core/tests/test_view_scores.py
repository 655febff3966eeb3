"""Log-densities of views and pairs by blocks, beside the plain path: values, gradients, removed components."""

import pytest
import torch

from gmje_core.densities.covariance import DiagonalCovariance, SphericalCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.objectives import view_scores
from gmje_core.objectives.view_scores import axis_aligned_log_densities

pytestmark = pytest.mark.usefixtures("seeded")

COMPONENTS, DIMS, ROWS = 6, (3, 4), 23


def joint_of(kind, tied, dtype, scale=1.0):
    size, lead = sum(DIMS), 1 if tied else COMPONENTS
    logits = torch.randn(COMPONENTS, dtype=dtype)
    logits[2] = -torch.inf  # a component that was removed
    variance = scale * (0.5 + torch.rand(lead, size, dtype=dtype))
    covariance = DiagonalCovariance(variance) if kind == "diag" else SphericalCovariance(variance[:, 0], size)
    means = torch.randn(COMPONENTS, size, dtype=dtype) + 2
    return JointGaussianMixture(logits, means, covariance, DIMS[0], validate_args=False)


def plain(joint, z_context, z_target):
    return [part.logsumexp(dim=1) for part in joint.view_log_probs(z_context, z_target)]


@pytest.mark.parametrize("scores", [1, 30, 10_000])
@pytest.mark.parametrize("scale", [1.0, 1e-4])  # with products in float32, and where they would lose digits there
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["diag", "spherical"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_values_and_gradients_are_those_of_the_plain_path(kind, tied, dtype, tolerance, scale, scores, monkeypatch):
    monkeypatch.setattr(view_scores, "_SCORES", scores)
    joint = joint_of(kind, tied, dtype, scale)
    views = [torch.randn(ROWS, dim, dtype=dtype).add_(2).requires_grad_() for dim in DIMS]
    ours, theirs = axis_aligned_log_densities(joint.context, joint.target, *views), plain(joint, *views)
    weights = torch.randn(3, ROWS, dtype=dtype)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    of_ours, of_theirs = (
        torch.autograd.grad(sum(part @ weight for part, weight in zip(parts, weights, strict=True)), views)
        for parts in (ours, theirs)
    )
    for one, other in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def test_the_values_are_the_same_where_no_gradient_is_wanted():
    joint = joint_of("diag", False, torch.float64)
    views = [torch.randn(ROWS, dim, dtype=torch.float64) for dim in DIMS]
    for one, other in zip(
        axis_aligned_log_densities(joint.context, joint.target, *views), plain(joint, *views), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_second_gradient_is_refused():
    joint = joint_of("diag", False, torch.float64)
    views = [torch.randn(ROWS, dim, dtype=torch.float64, requires_grad=True) for dim in DIMS]
    total = sum(part.sum() for part in axis_aligned_log_densities(joint.context, joint.target, *views))
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(total, views, create_graph=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_a_row_beyond_what_can_be_scored_is_not_finite(bad):
    joint = joint_of("spherical", False, torch.float64)
    views = [torch.zeros(ROWS, dim, dtype=torch.float64) for dim in DIMS]
    views[0][3, 1] = bad
    of_context, of_target, of_pair = axis_aligned_log_densities(joint.context, joint.target, *views)
    finite = torch.arange(ROWS) != 3
    assert torch.equal(of_context.isfinite(), finite)
    assert torch.equal(of_pair.isfinite(), finite)
    assert of_target.isfinite().all()
