"""One training step and an evaluation of each backbone at the size that it is made for: seconds and peak memory.

    python benchmarks/backbones.py [--batch 4] [--names resnet50,timm:convnext_tiny]

Each runs in a process of its own with one thread, on noise of the right shape: views, forward and backward pass,
criterion and optimiser, then features and kNN of the same images. Seconds are CPU seconds; memory is the largest
resident set of the process, of which Python with PyTorch and the data is a part.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

import torch
from accelerate import Accelerator

from gmje_bench.datasets.base import ImageData, ResidentImages, Split
from gmje_bench.evaluation.measure import measure
from gmje_bench.runs import Record
from gmje_bench.suites import Training, load_suite
from gmje_bench.training.module import build_module
from gmje_bench.training.pretrain import pretrain

SIDES = {
    "smallconv": 28,
    "resnet18": 32,
    "resnet34": 224,
    "resnet50": 224,
    "timm:convnext_tiny": 224,
    "timm:efficientnet_b0": 224,
    "timm:mobilenetv3_large_100": 224,
    "timm:swin_tiny_patch4_window7_224": 224,
    "timm:vit_small_patch16_224": 224,
}


def peak() -> float:
    """The largest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measured(name: str, batch: int) -> dict[str, float]:
    """Train one step and evaluate, in this process."""
    torch.set_num_threads(1)
    side = SIDES.get(name, 224)
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    split = Split.whole(ResidentImages(pixels), torch.arange(batch) % 2)
    data = ImageData("noise", split, split, ("a", "b"), 3, side, "noise", "content")
    accelerator, before = Accelerator(cpu=True), peak()
    with warnings.catch_warnings(action="ignore"):
        module = build_module("gje", load_suite("smoke").replace(backbone=name), 3, 0, classes=2, image_size=side)
        training = Training(epochs=1, batch_size=batch, warmup_steps=0)
        start = time.process_time()
        pretrain(module, data, training, seed=0, accelerator=accelerator, on_epoch=lambda *_: None)
        trained = time.process_time()
        measure(Record(method="gje", seed=0, status="ok"), module, data, ["knn"], accelerator)
        evaluated = time.process_time()
    return {
        "side": side,
        "parameters": sum(parameter.numel() for parameter in module.backbone.parameters()),
        "step": trained - start,
        "evaluation": evaluated - trained,
        "before": before,
        "peak": peak(),
    }


def main() -> None:
    """Measure each backbone in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--names", default=",".join(SIDES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one, given.batch)))
        return
    print("| backbone | pixels | parameters [M] | step [s] | evaluation [s] | memory before [MiB] | peak [MiB] |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in given.names.split(","):
        command = [sys.executable, __file__, "--one", name, "--batch", str(given.batch)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(
            f"| {name} | {found['side']} | {found['parameters'] / 1e6:.1f} | {found['step']:.1f} | "
            f"{found['evaluation']:.1f} | {found['before']:.0f} | {found['peak']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
