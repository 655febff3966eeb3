"""Pretraining uses one loop for every method, on any number of processes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gmje_bench.checkpoint import Checkpoint, History, Progress
from gmje_bench.datasets.base import ImageData
from gmje_bench.errors import OptionError
from gmje_bench.interrupts import Interrupted, Interrupts
from gmje_bench.module import JointEmbedding
from gmje_bench.online_probe import OnlineProbe
from gmje_bench.suite import Training
from gmje_bench.views import TwoViews
from gmje_core import NonFiniteError

__all__ = ["DivergedError", "learning_rate", "pretrain"]

Diagnostics = dict[str, float | str]


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Schedule:
    """The number of steps of a run.

    Args:
        epochs: Number of passes over the data.
        steps_per_epoch: Number of global batches in a pass; the last incomplete one is dropped.
    """

    epochs: int
    steps_per_epoch: int

    @property
    def total(self) -> int:
        """The number of all steps."""
        return self.epochs * self.steps_per_epoch


def learning_rate(step: int, total: int, peak: float, warmup: int) -> float:
    """Linear warm-up to ``peak``, then a cosine to zero.

    Args:
        step: The step, counted from 0.
        total: Number of steps of the run.
        peak: The highest learning rate.
        warmup: Number of steps of the warm-up.

    Examples:
        >>> [round(learning_rate(s, 10, 1.0, 2), 3) for s in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def pretrain(
    module: JointEmbedding,
    data: ImageData,
    training: Training,
    *,
    seed: int,
    accelerator: Accelerator,
    on_epoch: Callable[[int, float, Diagnostics], None],
    on_step: Callable[[], None] = lambda: None,
    checkpoint: Checkpoint | None = None,
    interrupts: Interrupts | None = None,
) -> History:
    """Train the module in place.

    Args:
        module: What to train, on the CPU or the accelerator's device.
        data: The images, of which the training split is used.
        training: Budget and optimiser.
        seed: Seed of the order of images and of the views.
        accelerator: Accelerate's object, which knows devices, processes and precision.
        on_epoch: A function that is called with the epoch from 1, its mean loss, and the diagnostics at its end.
        on_step: A function that is called after every step.
        checkpoint: Where to go on from, and what to write after every epoch and before an interruption.
        interrupts: An object that is asked after every step whether to stop.

    Returns:
        Diagnostics at the end of every epoch, with ``epoch`` and ``loss``.

    Raises:
        OptionError: the batch is larger than the data or not divisible by the processes, or gradients are accumulated.
        RunFolderError: the checkpoint is damaged or belongs to another run.
        DivergedError: the loss is NaN or infinite.
        Interrupted: a signal came; the checkpoint is written.
    """
    schedule = plan(len(data.train), training, accelerator)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    module.to(accelerator.device).train()
    wrapped, optimizer = accelerator.prepare(module, build_optimizer(module, training))
    views = TwoViews(module.views(data), seed)
    online = None
    if training.online_probe:
        online = OnlineProbe(module.backbone, int(module.backbone.num_features), len(data.classes))  # type: ignore[arg-type]
    progress = checkpoint.restore(module, optimizer, accelerator.scaler, online) if checkpoint else Progress()

    def save() -> None:
        if checkpoint and accelerator.is_main_process:
            checkpoint.save(module, optimizer, progress, accelerator.scaler, online)

    for epoch in range(progress.epoch, schedule.epochs):
        order = _order(len(data.train), schedule, training, seed, epoch, accelerator)
        batches = data.train.batches(order[progress.step :], training.workers)
        for step, (images, labels, _) in enumerate(batches, start=progress.step):
            rate = learning_rate(
                epoch * schedule.steps_per_epoch + step, schedule.total, training.learning_rate, training.warmup_steps
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            pair = views(
                images.to(accelerator.device, non_blocking=True),
                epoch=epoch,
                step=step,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
            )
            try:
                loss = wrapped(*pair, labels.to(accelerator.device, non_blocking=True))
            except NonFiniteError as error:
                raise DivergedError(f"{module.name} diverged at epoch {epoch + 1}, step {step + 1}: {error}") from error
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            optimizer.step()
            if online is not None:
                online.step(labels.to(accelerator.device))
            on_step()
            progress.losses.append(loss.detach())
            progress.step = step + 1
            if progress.step < schedule.steps_per_epoch and interrupts:
                _stop_where_asked(interrupts, accelerator, save)
        mean = _mean_loss(torch.stack(progress.losses), module.name, epoch, accelerator)
        report = module.diagnostics()
        if online is not None:
            report["online_probe"] = online.end_epoch()
        progress = Progress(epoch + 1, history=[*progress.history, {"epoch": float(epoch + 1), "loss": mean, **report}])
        save()
        on_epoch(epoch + 1, mean, report)
        if interrupts:
            _stop_where_asked(interrupts, accelerator, lambda: None)
    if online is not None:
        online.close()
    accelerator.free_memory()
    return progress.history


def _stop_where_asked(interrupts: Interrupts, accelerator: Accelerator, save: Callable[[], None]) -> None:
    """Stop all processes after the same step, whichever of them got the signal."""
    number = interrupts.pending
    if accelerator.num_processes > 1:
        numbers = torch.as_tensor(accelerator.gather(torch.tensor([number], device=accelerator.device)))
        number = int(numbers.max())
    if number:
        save()
        accelerator.wait_for_everyone()
        raise Interrupted(number)


def plan(images: int, training: Training, accelerator: Accelerator) -> Schedule:
    """Check that the batch fits the data and the processes, and count the steps of the run."""
    batch, processes = training.batch_size, accelerator.num_processes
    if accelerator.gradient_accumulation_steps > 1:
        raise OptionError(
            f"gradient accumulation over {accelerator.gradient_accumulation_steps} steps was asked for, but these "
            "losses compare the pairs of a batch with each other: accumulating small batches is not the loss of the "
            "large one. Use more processes or a smaller --batch-size"
        )
    if batch % processes:
        raise OptionError(f"--batch-size {batch} does not divide evenly over {processes} processes")
    if batch > images:
        raise OptionError(f"--batch-size {batch} is larger than the {images} training images")
    return Schedule(training.epochs, images // batch)


def build_optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Build AdamW, or SGD with momentum 0.9, without weight decay on vectors and on parameters of the criterion."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (free if parameter.ndim < 2 or name.startswith("criterion.") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=training.learning_rate)


def _order(
    n: int, schedule: Schedule, training: Training, seed: int, epoch: int, accelerator: Accelerator
) -> list[Tensor]:
    """This process's slice of every global batch; the permutation depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(n, generator=generator)
    share = training.batch_size // accelerator.num_processes
    start = accelerator.process_index * share
    batches = order[: schedule.steps_per_epoch * training.batch_size].split(training.batch_size)
    return [batch[start : start + share] for batch in batches]


def _mean_loss(losses: Tensor, method: str, epoch: int, accelerator: Accelerator) -> float:
    losses = torch.as_tensor(accelerator.reduce(losses, reduction="mean"))
    finite = torch.isfinite(losses)
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise DivergedError(
            f"{method} diverged at epoch {epoch + 1}, step {step + 1}: the loss is {float(losses[step])}; lower the "
            "learning rate"
        )
    return float(losses.mean())
