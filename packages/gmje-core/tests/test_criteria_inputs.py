"""What every criterion says of embeddings and options that it cannot take."""

import pytest
import torch
from criterion_cases import HEALTHY, pairs, unequal_dims

from gmje_core.criteria import GJE, build_criterion
from gmje_core.errors import (
    BatchSizeError,
    ConfigError,
    NonFiniteError,
    NotFittedError,
    ShapeError,
)


@pytest.mark.parametrize("make", [*HEALTHY, pytest.param(lambda d: GJE(d, moments="batch"), id="batch")])
@pytest.mark.filterwarnings("ignore::gmje_core.errors.TraceTrapWarning")
class TestBadInput:
    def test_shapes(self, make):
        dims = unequal_dims(make)
        criterion = make(dims)
        with pytest.raises(ShapeError, match=rf"z_target must have shape \(B, {dims[1]}\), but has \(8, 4\)"):
            criterion(torch.zeros(8, 3), torch.zeros(8, 4))
        with pytest.raises(ShapeError, match="8 and 7"):
            criterion(torch.zeros(8, 3), torch.zeros(7, dims[1]))
        with pytest.raises(ShapeError, match="int64"):
            criterion(torch.zeros(8, 3, dtype=torch.long), torch.zeros(8, dims[1]))

    def test_batch_of_one(self, make):
        with pytest.raises(BatchSizeError, match="at least 2 pairs"):
            make(unequal_dims(make))(torch.zeros(1, 3), torch.zeros(1, unequal_dims(make)[1]))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_non_finite(self, make, value):
        context, target = pairs(dims=unequal_dims(make))
        target[5, 1] = value
        with pytest.raises(NonFiniteError, match=r"z_target .* row 5 of the global batch of 128"):
            make(unequal_dims(make))(context, target)

    @pytest.mark.parametrize("scale", [0.0, 1e-8, 1e8])
    def test_degenerate_embeddings_give_a_finite_loss_and_gradient(self, make, scale):
        criterion = make(unequal_dims(make))
        for seed in range(3):
            context, target = (scale * z for z in pairs(dims=unequal_dims(make), seed=seed))
            loss = criterion(context.requires_grad_(), target)
            loss.backward()
            assert loss.isfinite()
            assert context.grad.isfinite().all()

    def test_density_before_any_batch(self, make):
        criterion = make(unequal_dims(make))
        with pytest.raises(NotFittedError, match="call it on a batch"):
            criterion.density()
        with pytest.raises(NotFittedError, match="call the criterion on a batch"):
            criterion.diagnostics()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gmjee", {}, "gmje"),
        ("gmje", {"compnents": 3}, "components"),
        ("gmje", {"components": 0}, "at least 1"),
        ("gmje", {"covariance_type": "spheric"}, "spherical"),
        ("gmje", {"covariance_type": "low_rank", "rank": 99}, "rank must lie between 1 and D = "),
        ("gmje", {"step": 0.0}, "step"),
        ("gmje", {"temperature": -1.0}, "temperature"),
        ("gje", {"moments": "runing"}, "running"),
        ("gje", {"step": 0.0}, "step"),
        ("gje", {"temperature": float("nan")}, "temperature"),
        ("gje", {"check_every": -1}, "check_every"),
        ("gmje-mdn", {"covariance_type": "fulll"}, "full"),
        ("gmje-mdn", {"objective": "likelihood"}, "objective"),
        ("gmje-mdn", {"hidden": 0}, "hidden"),
        ("gmje-mdn", {"components": 2.5}, "components must be an integer"),
        ("gmje-gng", {"capacity": 1}, "at least 2"),
        ("gmje-gng", {"covariance_type": "low_rank"}, "full, diag, spherical"),
        ("gmje-gng", {"insert_every": 0}, "insert_every"),
        ("gmje-gng", {"error_decay": 1.0}, "error_decay"),
        ("gmje-smc", {"particles": 0}, "particles"),
        ("gmje-smc", {"weighting": 1.5}, "weighting"),
        ("gmje-smc", {"direction": "sideways"}, "direction"),
        ("gmje-smc", {"age_decay": 1.0}, "age_decay"),
    ],
)
def test_bad_options_say_what_would_be_right(name, options, words):
    with pytest.raises(ConfigError, match=words):
        build_criterion(name, 4, **options)


@pytest.mark.parametrize("dim", [0, -1, (3,), (3, 0), 2.5])
def test_bad_dim(dim):
    with pytest.raises(ConfigError, match="dim must be"):
        GJE(dim)
