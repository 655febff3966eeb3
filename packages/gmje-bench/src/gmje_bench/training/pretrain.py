"""Pretraining uses one loop for every method, on any number of processes."""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gmje_bench.datasets.base import ImageData
from gmje_bench.datasets.order import EpochOrder
from gmje_bench.datasets.prefetch import on_device
from gmje_bench.errors import RunFolderError
from gmje_bench.suites import Training
from gmje_bench.training.checkpoint import Checkpoint, Progress
from gmje_bench.training.interrupts import Interrupted, Interrupts
from gmje_bench.training.module import JointEmbedding
from gmje_bench.training.online_probe import OnlineProbe
from gmje_bench.training.optimizers import build_optimizer, set_rate
from gmje_bench.training.schedule import learning_rate, plan
from gmje_bench.views import TwoViews
from gmje_core import NonFiniteError

__all__ = ["DivergedError", "pretrain"]

Diagnostics = dict[str, float | str]


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


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
) -> Progress:
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
        Where training stands in the end: the diagnostics of every epoch, with ``epoch`` and ``loss``, and the seconds
        that it took.

    Raises:
        OptionError: the batch is larger than the data or not divisible by the processes, or gradients are accumulated.
        RunFolderError: the checkpoint is damaged or belongs to another run.
        DivergedError: the loss is NaN or infinite.
        Interrupted: a signal came; the checkpoint is written.
    """
    start = time.perf_counter()
    schedule = plan(len(data.train), training, accelerator)
    warmup = training.warmup(schedule.steps_per_epoch)
    module = _on_device(module, training, accelerator)
    wrapped, optimizer = accelerator.prepare(module, build_optimizer(module, training))
    views = TwoViews(module.views(data), seed)
    online = None
    if training.online_probe:
        online = OnlineProbe(int(module.backbone.num_features), len(data.classes), accelerator.device)  # type: ignore[arg-type]
        module.watch = online.look
    progress = checkpoint.restore(module, optimizer, accelerator.scaler, online) if checkpoint else Progress()
    _check_agreed(progress, accelerator)
    start -= progress.seconds
    device = accelerator.device
    form = torch.channels_last if training.channels_last else torch.contiguous_format
    due = _Timer(training.checkpoint_minutes)

    def save() -> None:
        progress.seconds = time.perf_counter() - start
        if checkpoint and accelerator.is_main_process:
            checkpoint.save(module, optimizer, progress, accelerator.scaler, online)
        due.restart()

    for epoch in range(progress.epoch, schedule.epochs):
        order = EpochOrder(
            seed=seed,
            epoch=epoch,
            steps=schedule.steps_per_epoch,
            batch_size=training.batch_size,
            first_step=progress.step,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            mixed_blocks=training.shuffle_blocks,
        )
        read = data.train.epoch(order, views, training.workers, pin=device.type == "cuda")
        for step, (images, labels, _) in enumerate(on_device(read, device), start=progress.step):
            number = epoch * schedule.steps_per_epoch + step
            set_rate(optimizer, partial(learning_rate, number, schedule.total, warmup=warmup))
            pair = views(images, **order.place(step))
            try:
                context, target = (view.contiguous(memory_format=form) for view in pair)
                loss = wrapped(context, target, labels)
            except NonFiniteError as error:
                raise DivergedError(f"{module.name} diverged at epoch {epoch + 1}, step {step + 1}: {error}") from error
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            optimizer.step()
            if online is not None:
                online.step(labels)
            on_step()
            progress.losses.append(loss.detach())
            progress.step = step + 1
            if progress.step < schedule.steps_per_epoch:
                if interrupts:
                    _stop_where_asked(interrupts, accelerator, save)
                if due():
                    save()
        mean = _mean_loss(torch.stack(progress.losses), module.name, epoch, accelerator)
        report = module.diagnostics()
        if online is not None:
            report["online_probe"] = online.end_epoch()
        progress = Progress(epoch + 1, history=[*progress.history, {"epoch": float(epoch + 1), "loss": mean, **report}])
        save()
        on_epoch(epoch + 1, mean, report)
        if interrupts:
            _stop_where_asked(interrupts, accelerator, lambda: None)
    module.watch = None
    accelerator.free_memory()
    progress.seconds = time.perf_counter() - start
    return progress


class _Timer:
    """Says when so many minutes have passed since the last restart; never where there is no number of minutes."""

    def __init__(self, minutes: float | None) -> None:
        self._seconds = math.inf if minutes is None else 60 * minutes
        self.restart()

    def restart(self) -> None:
        self._start = time.monotonic()

    def __call__(self) -> bool:
        return time.monotonic() - self._start >= self._seconds


def _on_device(module: JointEmbedding, training: Training, accelerator: Accelerator) -> JointEmbedding:
    """The module on the device, in the form that it is trained in."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    module.to(accelerator.device).train()
    if training.channels_last:
        for encoder in (module.backbone, module.target_encoder):
            if encoder is not None:
                encoder.to(memory_format=torch.channels_last)
    if training.compile:
        module.compile_backbone()
    return module


def _check_agreed(progress: Progress, accelerator: Accelerator) -> None:
    """Raise unless all processes go on from the same step; on several machines, the folder may not be shared."""
    if accelerator.num_processes == 1:
        return
    own = torch.tensor([progress.epoch, progress.step], device=accelerator.device)
    found = torch.as_tensor(accelerator.gather(own)).view(-1, 2)
    if (found != found[0]).any():
        raise RunFolderError(
            "the processes found different checkpoints in the run folder: --output must be a folder that all machines "
            f"share (epochs {found[:, 0].tolist()}, steps {found[:, 1].tolist()})"
        )


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
