"""Training on shards that writes down which images each step saw, and may kill itself in the middle."""

import json
import os
import signal
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import Split
from gmje_bench.suites import Training, load_suite
from gmje_bench.training.checkpoint import Checkpoint
from gmje_bench.training.module import build_module
from gmje_bench.training.pretrain import pretrain

EPOCHS, BATCH = 2, 8


def train(dataset: str, folder: Path, environment: dict[str, str], workers: int, kill_at: int) -> None:
    """Train, or go on with what is in the folder.

    After every step its images are appended to ``folder/seen-RANK.jsonl``, by their places in the dataset. At step
    ``kill_at`` of this start (0: never) the process ends as by a power failure.
    """
    os.environ |= environment
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == int(environment.get("WORLD_SIZE", "1"))
    data = load_dataset(dataset, image_size=98)
    training = Training(
        epochs=EPOCHS, batch_size=BATCH, warmup_steps=1, workers=workers, checkpoint_minutes=1e-9, shuffle_blocks=4
    )
    torch.manual_seed(0)
    module = build_module("gje", load_suite("smoke"), data.channels, seed=0)
    log = folder / f"seen-{accelerator.process_index}.jsonl"
    steps, epoch_of_split = [], Split.epoch

    def watched(split, order, *rest, **options):
        """The same batches, and a note of each."""
        number = order.first_step
        for images, labels, indices in epoch_of_split(split, order, *rest, **options):
            steps.append({"epoch": order.epoch, "step": number, "images": indices.tolist()})
            number += 1
            yield images, labels, indices

    Split.epoch = watched
    done = 0

    def on_step() -> None:
        nonlocal done
        with log.open("a") as stream:
            stream.write(json.dumps(steps[done]) + "\n")
        done += 1
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    progress = pretrain(
        module,
        data,
        training,
        seed=0,
        accelerator=accelerator,
        on_epoch=lambda *_: None,
        on_step=on_step,
        checkpoint=Checkpoint(folder / "checkpoint", {"dataset": data.fingerprint}),
    )
    if accelerator.is_main_process:
        result = {"losses": [values["loss"] for values in progress.history]}
        result["weights"] = [float(p.double().sum()) for p in module.parameters()]
        (folder / "result.json").write_text(json.dumps(result))
    accelerator.end_training()
