"""The baselines: one of each family, with lightly's losses and heads, and encoders trained on labels or not at all.

Every loss is taken over the gathered global batch, so that N processes train as one does.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from lightly.loss.lejepa_loss import SIGReg, lejepa_invariance_loss
from lightly.models.modules.heads import BYOLPredictionHead, SimSiamPredictionHead, SwaVPrototypes
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from gmje_bench.errors import OptionError
from gmje_bench.methods import Objective, Setting, take_options
from gmje_bench.methods.settings import settings_of
from gmje_core.counting import CountingModule
from gmje_core.distributed import all_gather_with_grad, gather_pairs
from gmje_core.models.momentum import MomentumEncoder
from gmje_core.seeds import seeded

__all__ = [
    "barlow",
    "byol",
    "dino",
    "jepa",
    "lejepa",
    "moco",
    "random",
    "simclr",
    "simsiam",
    "supervised",
    "swav",
    "vicreg",
]


class GlobalLoss(nn.Module):
    """A loss of the embeddings of two views, taken over the pairs of all processes.

    Args:
        loss: A loss of embeddings ``(B, dim)`` and ``(B, dim)``.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """The loss of the global batch, scalar."""
        value: Tensor = self.loss(*gather_pairs(z_context, z_target))
        return value


def simclr(setting: Setting, options: dict[str, Any]) -> Objective:
    """NT-Xent over the views of the batch (Chen et al., 2020)."""
    chosen = take_options("simclr", options, settings_of("simclr"))
    return Objective(GlobalLoss(NTXentLoss(_temperature("simclr", chosen))))


def moco(setting: Setting, options: dict[str, Any]) -> Objective:
    """InfoNCE against a queue of past targets, with a momentum encoder of the target (He et al., 2020)."""
    chosen = take_options("moco", options, settings_of("moco"))
    queue = _integer("moco", chosen, "queue")
    loss = NTXentLoss(_temperature("moco", chosen), memory_bank_size=(queue, setting.dim))
    return Objective(GlobalLoss(loss), momentum=_momentum("moco", chosen))


def vicreg(setting: Setting, options: dict[str, Any]) -> Objective:
    """Variance, invariance and covariance of unnormalised embeddings (Bardes et al., 2022)."""
    chosen = take_options("vicreg", options, settings_of("vicreg"))
    return Objective(GlobalLoss(VICRegLoss(**chosen)), normalize=False)


def barlow(setting: Setting, options: dict[str, Any]) -> Objective:
    """Barlow Twins: the cross-correlation of the views near the identity (Zbontar et al., 2021)."""
    chosen = take_options("barlow", options, settings_of("barlow"))
    return Objective(GlobalLoss(BarlowTwinsLoss(**chosen)), normalize=False)


class PredictiveLoss(GlobalLoss):
    """The loss of a predictor, taken over the pairs of all processes; its ``loss`` has a ``predictor``."""

    def predict(self, z_context: Tensor) -> Tensor:
        """The expected embeddings ``(b, dim)`` of targets."""
        predicted: Tensor = self.loss.get_submodule("predictor")(z_context)
        return predicted


class _Predicted(nn.Module):
    """A predictor of the context's embedding, compared with the target's, which takes no gradient."""

    def __init__(self, predictor: nn.Module, compare: nn.Module, *, both: bool) -> None:
        super().__init__()
        self.predictor, self.compare, self.both = predictor, compare, both

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        loss: Tensor = self.compare(self.predictor(z_context), z_target.detach())
        if not self.both:
            return loss
        back: Tensor = self.compare(self.predictor(z_target), z_context.detach())
        return (loss + back) / 2


def byol(setting: Setting, options: dict[str, Any]) -> Objective:
    """Predict the other view's embedding by a momentum encoder, by cosine, both ways (Grill et al., 2020)."""
    chosen = take_options("byol", options, settings_of("byol"))
    head = BYOLPredictionHead(setting.dim, _integer("byol", chosen, "hidden"), setting.dim)
    criterion = PredictiveLoss(_Predicted(head, NegativeCosineSimilarity(), both=False))
    return Objective(criterion, normalize=False, momentum=_momentum("byol", chosen), symmetric=True)


def simsiam(setting: Setting, options: dict[str, Any]) -> Objective:
    """Predict the other view's embedding by the same encoder, its gradient stopped (Chen and He, 2021)."""
    chosen = take_options("simsiam", options, settings_of("simsiam"))
    head = SimSiamPredictionHead(setting.dim, _integer("simsiam", chosen, "hidden"), setting.dim)
    return Objective(PredictiveLoss(_Predicted(head, NegativeCosineSimilarity(), both=True)), normalize=False)


def jepa(setting: Setting, options: dict[str, Any]) -> Objective:
    """A deterministic joint-embedding predictor: squared error to a momentum encoder (LeCun, 2022)."""
    chosen = take_options("jepa", options, settings_of("jepa"))
    head = BYOLPredictionHead(setting.dim, _integer("jepa", chosen, "hidden"), setting.dim)
    criterion = PredictiveLoss(_Predicted(head, nn.MSELoss(), both=False))
    return Objective(criterion, normalize=False, momentum=_momentum("jepa", chosen), symmetric=True)


class _Swapped(nn.Module):
    """SwaV's swapped prediction of the views' assignments to prototypes."""

    def __init__(self, prototypes: SwaVPrototypes, loss: SwaVLoss) -> None:
        super().__init__()
        self.prototypes, self.loss = prototypes, loss

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        if self.training:
            self.prototypes.normalize()
        views = [self.prototypes(F.normalize(z, dim=1)) for z in (z_context, z_target)]
        loss: Tensor = self.loss(views, []).squeeze()
        return loss


def swav(setting: Setting, options: dict[str, Any]) -> Objective:
    """Predict the other view's assignment to prototypes, balanced by Sinkhorn (Caron et al., 2020); two crops."""
    chosen = take_options("swav", options, settings_of("swav"))
    prototypes = SwaVPrototypes(setting.dim, _integer("swav", chosen, "prototypes"))
    loss = SwaVLoss(_temperature("swav", chosen), sinkhorn_epsilon=_temperature("swav", chosen, "epsilon"))
    return Objective(GlobalLoss(_Swapped(prototypes, loss)))


class _CenteredLoss(DINOLoss):  # type: ignore[misc]
    """DINO's loss, whose center moves in training only."""

    def update_center(self, teacher_out: Tensor) -> None:
        if self.training:
            super().update_center(teacher_out)


class _Distilled(nn.Module):
    """Cross-entropy between the prototypes of the context and the centred, sharpened ones of a momentum teacher.

    Embeddings are DINO's normalised bottleneck; this holds the weight-normalised layer behind it. The criterion is
    called twice in a step, with either view as the context, so that each call moves both averages by half a step.
    """

    def __init__(
        self, dim: int, prototypes: int, momentum: float, center_momentum: float, **temperatures: float
    ) -> None:
        super().__init__()
        self.prototypes = weight_norm(nn.Linear(dim, prototypes, bias=False))
        norms = self.prototypes.parametrizations.weight.original0
        norms.requires_grad_(requires_grad=False).fill_(1.0)
        self.teacher = MomentumEncoder(self.prototypes, momentum**0.5)
        self.loss = _CenteredLoss(prototypes, center_momentum=center_momentum**0.5, **temperatures)

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.teacher.update(self.prototypes)
        teacher = self.teacher(z_target)
        # The loss leaves out the student's view of the teacher's own number, which is the first of the list.
        loss: Tensor = self.loss([teacher], [teacher, self.prototypes(z_context)])
        return loss


def dino(setting: Setting, options: dict[str, Any]) -> Objective:
    """Predict a momentum teacher's assignment to prototypes, centred and sharpened (Caron et al., 2021); two crops."""
    chosen = take_options("dino", options, settings_of("dino"))
    criterion = _Distilled(
        setting.dim,
        _integer("dino", chosen, "prototypes"),
        _momentum("dino", chosen),
        _momentum("dino", chosen, "center_momentum"),
        teacher_temp=_temperature("dino", chosen, "teacher_temperature"),
        student_temp=_temperature("dino", chosen, "student_temperature"),
    )
    return Objective(GlobalLoss(criterion), momentum=_momentum("dino", chosen), symmetric=True)


class _Isotropic(CountingModule):
    """LeJEPA's loss: both views agree, and along random directions the embeddings are standard normal."""

    def __init__(self, weight: float, directions: int) -> None:
        super().__init__(steps=0)
        self.weight, self.sigreg = weight, SIGReg(num_vectors=directions)

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        views = torch.stack([z_context, z_target])
        # Directions depend on the step alone: all processes draw the same ones, and so does a run that is resumed.
        with seeded(self.counters["steps"], views.device):
            distance = self.sigreg(views)
        self.counters["steps"] += int(self.training)
        invariance = lejepa_invariance_loss(all_proj=views, global_proj=views)
        loss: Tensor = self.weight * distance + (1 - self.weight) * invariance
        return loss


def lejepa(setting: Setting, options: dict[str, Any]) -> Objective:
    """Predict the other view while embeddings are an isotropic Gaussian (Balestriero and LeCun, 2025); two crops."""
    chosen = take_options("lejepa", options, settings_of("lejepa"))
    if chosen["weight"] > 1:
        raise OptionError(f"method lejepa: weight must lie in [0, 1], got {chosen['weight']}")
    criterion = _Isotropic(chosen["weight"], _integer("lejepa", chosen, "directions"))
    return Objective(GlobalLoss(criterion), normalize=False)


class _Classifier(nn.Module):
    """Cross-entropy of a linear classifier of both views' embeddings."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, classes)

    def forward(self, z_context: Tensor, z_target: Tensor, labels: Tensor) -> Tensor:
        embeddings = torch.cat(gather_pairs(z_context, z_target))
        labels = all_gather_with_grad(labels).repeat(2)
        return F.cross_entropy(self.head(embeddings), labels)


def supervised(setting: Setting, options: dict[str, Any]) -> Objective:
    """Trained on the labels: what the same budget reaches with them."""
    take_options("supervised", options, settings_of("supervised"))
    return Objective(_Classifier(setting.dim, setting.classes), normalize=False, labels=True)


class _Zero(nn.Module):
    """A loss without gradient."""

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        return torch.zeros((), device=z_context.device)


def random(setting: Setting, options: dict[str, Any]) -> Objective:
    """The initial encoder, as it is."""
    take_options("random", options, settings_of("random"))
    return Objective(_Zero(), trains=False)


def _temperature(method: str, options: dict[str, float], key: str = "temperature") -> float:
    if options[key] < 1e-6:  # A smaller temperature would give a softmax of infinities.
        raise OptionError(f"method {method}: {key} must be at least 1e-6, got {options[key]}")
    return options[key]


def _integer(method: str, options: dict[str, float], key: str) -> int:
    if options[key] < 1 or options[key] != int(options[key]):
        raise OptionError(f"method {method}: {key} must be an integer of at least 1, got {options[key]}")
    return int(options[key])


def _momentum(method: str, options: dict[str, float], key: str = "momentum") -> float:
    if not options[key] < 1:
        raise OptionError(f"method {method}: {key} must lie in [0, 1), got {options[key]}")
    return options[key]
