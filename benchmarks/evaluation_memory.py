"""Peak memory of an evaluation of image folders of different sizes, which should not depend on the size.

    python benchmarks/imagenet_like.py small --images 5000
    python benchmarks/imagenet_like.py large --images 20000
    python benchmarks/evaluation_memory.py small large [--tasks linear_probe,knn] [--size 224]

Each folder is evaluated by a process of its own: an untrained small network on images of 224 pixels. The table shows
the largest resident set of the process, how much of it was there before the evaluation, and how long it took.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

import torch
from torch import Tensor, nn

import gmje_bench
from gmje_bench.datasets import load_dataset
from gmje_core.models.backbones import build_backbone


class Small(nn.Module):
    """The small backbone on a quarter of the pixels of either side, so that reading images is what takes the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = build_backbone("smallconv", in_channels=3)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images ``(b, 3, S, S)``."""
        features: Tensor = self.backbone(nn.functional.avg_pool2d(images, 4))
        return features


def measured(folder: str, tasks: list[str], size: int) -> dict[str, float]:
    """Evaluate a folder in this process."""
    torch.set_num_threads(1)
    data = load_dataset(f"imagefolder:{folder}", image_size=size)
    before, start = peak(), time.perf_counter()
    with warnings.catch_warnings(action="ignore"):
        found = gmje_bench.evaluate(Small().eval(), data, tasks, keep=False)
    seconds = time.perf_counter() - start
    images = len(data.train) + len(data.test)
    return {"images": images, "before": before, "peak": peak(), "seconds": seconds, **found.metrics}


def peak() -> float:
    """The largest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measure each folder in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--tasks", default="linear_probe,knn")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measured(options.folders[0], options.tasks.split(","), options.size)))
        return
    print(f"{'images':>7} {'before [MiB]':>13} {'peak [MiB]':>11} {'seconds':>8}")
    for folder in options.folders:
        command = [sys.executable, __file__, folder, "--here", "--tasks", options.tasks, "--size", str(options.size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print(f"{row['images']:>7.0f} {row['before']:>13.0f} {row['peak']:>11.0f} {row['seconds']:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
