"""The solver of the probe: scikit-learn's minimiser of scikit-learn's objective."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gmje_bench.tasks.logistic import Classifier, Memory, Problem, fit_path
from gmje_bench.tasks.rows import Rows

STRENGTHS = (1e-2, 1e-1, 1.0)


def classes_in_a_skewed_space(n: int = 700, dim: int = 8, classes: int = 5, seed: int = 0):
    """Standardised rows with correlated columns, whose classes overlap."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    x = torch.randn(classes, dim, generator=g)[y] + torch.randn(n, dim, generator=g)
    x = x @ (torch.eye(dim) + 0.4 * torch.randn(dim, dim, generator=g))
    return (x - x.mean(0)) / x.std(0), y


def reference(x, y, c):
    return LogisticRegression(C=c, max_iter=10_000, tol=1e-10).fit(x.double().numpy(), y.numpy())


@pytest.mark.parametrize("classes", [2, 5])
def test_every_strength_has_scikit_learns_coefficients(classes):
    x, y = classes_in_a_skewed_space(classes=classes)
    for c, found in zip(STRENGTHS, fit_path(Rows.of(x), y, classes, STRENGTHS, tolerance=1e-9), strict=True):
        expected = reference(x, y, c)
        w = found.coefficients
        # Two classes: scikit-learn has the difference of the columns.
        own = w - w.mean(dim=1, keepdim=True) if classes > 2 else (w[:, 1] - w[:, 0])[:, None]
        coefficients = torch.from_numpy(expected.coef_).T
        torch.testing.assert_close(own[:-1], coefficients, rtol=0, atol=1e-3 * float(coefficients.abs().max()))
        intercepts = torch.from_numpy(expected.intercept_)
        if classes > 2:
            intercepts = intercepts - intercepts.mean()
        torch.testing.assert_close(own[-1], intercepts, rtol=0, atol=1e-3)


def test_rows_that_do_not_count_change_nothing():
    x, y = classes_in_a_skewed_space()
    fitted = torch.arange(len(y)) % 3 > 0
    (some,) = fit_path(Rows.of(x), y, 5, [0.1], fitted=fitted, tolerance=1e-10)
    (alone,) = fit_path(Rows.of(x[fitted]), y[fitted], 5, [0.1], tolerance=1e-10)
    torch.testing.assert_close(some.coefficients, alone.coefficients, rtol=1e-3, atol=1e-4)


def test_the_gradient_is_that_of_the_objective():
    x, y = classes_in_a_skewed_space(n=600)
    problem = Problem(Rows.of(x.double()), y, 5, torch.arange(600) % 4 > 0)
    point = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = (torch.arange(600) % 4 > 0).double()
    losses = torch.nn.functional.cross_entropy(x.double() @ point[:-1] + point[-1], y, reduction="none")
    expected = (weights * losses).sum() / weights.sum() + 0.15 * point[:-1].square().sum()
    (slope,) = torch.autograd.grad(expected, point)
    value, gradient = problem.value_and_gradient(point.detach().T, 0.3)
    assert value == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(gradient, slope.T)


@pytest.mark.parametrize("pairs", [1, 5, 75])
@pytest.mark.parametrize("penalties", [(0.3,), (0.3, 0.05)])
def test_the_memory_estimates_as_the_recursion_of_l_bfgs_does(pairs, penalties):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    factor = drawn(8, 8)
    hessian, gram = factor @ factor.T + torch.eye(8), 2.5 * (factor @ factor.T + 2 * torch.eye(8))
    memory = Memory(gram, penalties[0], 3)
    steps = list(drawn(pairs, 3, 8))
    free = torch.tensor([1.0] * 7 + [0.0], dtype=torch.float64)  # intercepts are not penalised
    for step in steps:
        memory.remember(step, step @ hessian + penalties[0] * step * free)
    for penalty in penalties[1:]:
        memory = Memory(gram, penalty, 3, memory)
    bound = gram / 2 + torch.diag(penalties[-1] * free)
    changes = [step @ hessian + penalties[-1] * step * free for step in steps]
    gradient = drawn(3, 8)
    rest, kept = gradient.clone(), list(zip(steps, changes, strict=True))[-60:]
    shares = []
    for step, change in reversed(kept):
        shares.append((step * rest).sum() / (step * change).sum())
        rest -= shares[-1] * change
    step, change = kept[-1]
    scale = (step * change).sum() / (change * torch.linalg.solve(bound, change.T).T).sum()
    found = scale * torch.linalg.solve(bound, rest.T).T
    for (step, change), share in zip(kept, reversed(shares), strict=True):
        found += (share - (change * found).sum() / (step * change).sum()) * step
    torch.testing.assert_close(memory.estimate(gradient), found, rtol=1e-8, atol=1e-8)


def test_what_was_learned_of_the_curvature_saves_steps_at_the_next_strength():
    x, y = classes_in_a_skewed_space(dim=40)
    first, second = fit_path(Rows.of(x), y, 5, [0.1, 0.3])
    (without,) = fit_path(Rows.of(x), y, 5, [0.3], start=Classifier(first.coefficients))
    assert second.iterations < without.iterations


@pytest.mark.parametrize("rows", [torch.zeros(60, 3), torch.ones(60, 3) * torch.arange(60).view(-1, 1) % 2])
def test_rows_that_hold_nothing_or_everything(rows):
    y = torch.arange(60) % 2
    *_, found = fit_path(Rows.of(rows), y, 2, [1.0, 1e6])
    assert found.coefficients.isfinite().all()
    right = (found.logits(rows).argmax(dim=1) == y).double().mean()
    assert right == (1.0 if rows.any() else 0.5)
