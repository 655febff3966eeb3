"""The solver of the probe: scikit-learn's minimiser of scikit-learn's objective."""

import itertools

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gmje_bench.tasks.lbfgs import Memory
from gmje_bench.tasks.logistic import Classifier, Problem, fit_path, fit_paths, search
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


def sets_of(n: int) -> torch.Tensor:
    """Three sets of rows of different sizes that overlap."""
    places = torch.arange(n)
    return torch.stack([places % 3 > 0, places % 5 == 0, places > n // 4])


@pytest.mark.parametrize("classes", [2, 5])
def test_several_sets_at_once_have_scikit_learns_coefficients(classes):
    x, y = classes_in_a_skewed_space(classes=classes)
    sets = sets_of(len(y))
    for c, found in zip(STRENGTHS, fit_paths(Rows.of(x), y, classes, STRENGTHS, sets, tolerance=1e-9), strict=True):
        assert len(found) == len(sets)
        for own, fitted in zip(found, sets, strict=True):
            # scikit-learn's loss is a sum, so that the rows that are left out change nothing else.
            expected = reference(x[fitted], y[fitted], c)
            log_p = expected.predict_log_proba(x.double().numpy())
            torch.testing.assert_close(
                own.logits(x.double()).log_softmax(dim=1), torch.from_numpy(log_p), rtol=0, atol=5e-3
            )


def test_several_sets_at_once_are_the_sets_alone():
    x, y = classes_in_a_skewed_space(dim=40)
    x, sets, strengths = x.double(), sets_of(len(y)), (1e-3, 1e-2, 10.0)
    problem = Problem(Rows.of(x), y, 5, sets)
    alone = [list(fit_path(Rows.of(x), y, 5, strengths, fitted=fitted)) for fitted in sets]
    for c, together, *others in zip(strengths, fit_paths(Rows.of(x), y, 5, strengths, sets), *alone, strict=True):
        found, expected = (torch.stack([own.coefficients.T for own in many]) for many in (together, others))
        if c < 1:
            assert [own.iterations for own in together] == [own.iterations for own in others]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
        # So many steps make something of any rounding error, but the end is as good as the tolerance says.
        values = [problem.value_and_gradient(own, 1 / (c * problem.count))[0] for own in (found, expected)]
        torch.testing.assert_close(*values, rtol=2e-6, atol=0)
    # They end after different numbers of steps, some after more than the memory holds.
    steps = [own.iterations for own in together]
    assert len(set(steps)) == 3
    assert max(steps) > 60


def test_every_problem_has_a_length_of_its_own():
    x, y = classes_in_a_skewed_space(n=300)
    problem, penalty = Problem(Rows.of(x.double()), y, 5, sets_of(300)), torch.tensor([0.1, 0.2, 0.3]).double()
    point = torch.randn(3, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    value, gradient = problem.value_and_gradient(point, penalty)
    # One step is far too long, one far too short, and one climbs.
    direction = -gradient * torch.tensor([100.0, 1e-3, -1.0]).double().view(3, 1, 1)
    slope = (direction * gradient).sum(dim=(1, 2))
    moved, found, changed, better = search(problem, penalty, point, value, gradient, direction, slope)
    assert better.tolist() == [True, True, False]
    assert torch.equal(moved[2], point[2])
    assert torch.equal(found[2], value[2])
    assert torch.equal(changed[2], gradient[2])
    lengths = ((moved - point) / direction)[:2].flatten(1)
    torch.testing.assert_close(lengths, lengths[:, :1].expand_as(lengths))
    assert lengths[0, 0] < 1 < lengths[1, 0]
    assert (found[:2] <= value[:2] + 1e-4 * lengths[:, 0] * slope[:2]).all()
    assert ((changed * direction).sum(dim=(1, 2))[:2] >= 0.9 * slope[:2]).all()
    torch.testing.assert_close((found, changed), problem.value_and_gradient(moved, penalty))


def test_the_gradients_are_those_of_the_objectives():
    x, y = classes_in_a_skewed_space(n=600)
    sets, penalty = sets_of(600), torch.tensor([0.3, 0.1, 0.7]).double()
    problem = Problem(Rows.of(x.double()), y, 5, sets)
    point = torch.randn(3, 9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = []
    for own, fitted, more in zip(point, sets, penalty, strict=True):
        losses = torch.nn.functional.cross_entropy(x.double() @ own[:-1] + own[-1], y, reduction="none")
        expected.append(losses[fitted].mean() + more / 2 * own[:-1].square().sum())
    (slope,) = torch.autograd.grad(sum(expected), point)
    value, gradient = problem.value_and_gradient(point.detach().mT.contiguous(), penalty)
    torch.testing.assert_close(value, torch.stack(expected).detach())
    torch.testing.assert_close(gradient, slope.mT)
    kept = torch.tensor([True, False, True])
    some = problem.only(kept).value_and_gradient(point.detach().mT[kept].contiguous(), penalty[kept])
    torch.testing.assert_close(some, (value[kept], gradient[kept]))


@pytest.mark.parametrize("pairs", [1, 5, 75])
@pytest.mark.parametrize("penalties", [(0.3,), (0.3, 0.05)])
def test_the_memories_estimate_as_the_recursion_of_l_bfgs_does(pairs, penalties):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    factors = drawn(2, 8, 8)
    hessians = factors @ factors.mT + torch.eye(8)
    grams = 2.5 * (hessians + torch.eye(8))
    free = torch.tensor([1.0] * 7 + [0.0], dtype=torch.float64)  # intercepts are not penalised

    def change(steps, penalty):
        return steps @ hessians + penalty * steps * free

    more = torch.tensor([0.0, 0.2]).double()  # of the second problem
    memory, gradient = Memory(grams, penalties[0] + more, 3), drawn(2, 3, 8)
    memory.see(gradient)
    steps = drawn(pairs, 2, 3, 8)
    steps[-1, 1] = 0.0  # The second problem takes no last step, and so has one fewer.
    for step in steps:
        gradient = gradient + change(step, (penalties[0] + more).view(2, 1, 1))
        memory.remember(step, gradient)
    for before, penalty in itertools.pairwise(penalties):
        known = [memory.pairs(place).under(torch.tensor(penalty - before).double()) for place in range(2)]
        assert [len(own.steps) for own in known] == [min(60, pairs), min(60, pairs) - 1]
        memory = Memory(grams, penalty + more, 3, known)
        memory.see(gradient)
    alone = memory.only(torch.tensor([False, True]))
    found = memory.estimate()
    torch.testing.assert_close(alone.estimate(), found[1:])
    for place, own in enumerate(found):
        penalty = penalties[-1] + more[place]
        kept = [(step, change(step, penalty)[place]) for step in steps[:, place]][-60:]
        kept = [(step, changed) for step, changed in kept if step.any()]
        bound = grams[place] / 2 + torch.diag(penalty * free)
        torch.testing.assert_close(own, recursion(kept, bound, gradient[place]), rtol=1e-7, atol=1e-7)


def recursion(pairs, bound, gradient):
    """L-BFGS's own product with the gradient, from steps and changes in the order of time."""
    if not pairs:
        return torch.linalg.solve(bound, gradient.T).T
    rest, shares = gradient.clone(), []
    for step, change in reversed(pairs):
        shares.append((step * rest).sum() / (step * change).sum())
        rest -= shares[-1] * change
    step, change = pairs[-1]
    scale = (step * change).sum() / (change * torch.linalg.solve(bound, change.T).T).sum()
    found = scale * torch.linalg.solve(bound, rest.T).T
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        found += (share - (change * found).sum() / (step * change).sum()) * step
    return found


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
