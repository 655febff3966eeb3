"""Reading of image folders beside torchvision: two views of 224 pixels from each image, and how crops are distributed.

    python benchmarks/imagenet_like.py FOLDER --images 3000 --classes 100
    python benchmarks/reading.py FOLDER [--images 960] [--workers 0] [--listing 100000]

The peers are `torchvision.datasets.ImageFolder` in a `DataLoader` that applies `v2.RandomResizedCrop` twice: to
Pillow's images, as most programs do, and to tensors of bytes. Flips and colours are left to the device on all sides.
They take turns on blocks of 32 images of one process. Without workers, time is CPU time of this process, so that a
busy machine changes it little; with them it is time on the wall. Below stand ways to decode, and the distributions of
both sides' crops, with the probability of a larger distance between equal ones (Kolmogorov-Smirnov). `--listing N`
lists N empty files twice, from the folder and from what was kept.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from gmje_bench.datasets import cropping, load_dataset
from gmje_bench.datasets.listing import listed
from gmje_bench.datasets.order import EpochOrder
from gmje_bench.views import TwoViews, preset

SIZE, BLOCK = 224, 32
PEERS = {
    "ImageFolder, v2 on Pillow": v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.PILToTensor()]),
    "ImageFolder, v2 on bytes": v2.RandomResizedCrop(SIZE, antialias=True),
}


class Twice:
    """Two views of an image."""

    def __init__(self, transform: Callable[..., Tensor], first: Callable[..., object]) -> None:
        self.transform, self.first = transform, first

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """The views."""
        given = self.first(image)
        return self.transform(given), self.transform(given)


def same(image: Image.Image) -> Image.Image:
    return image


def peer(folder: Path, name: str, workers: int) -> Iterator[object]:
    first = F.pil_to_tensor if name.endswith("bytes") else same
    data = ImageFolder(folder / "train", Twice(PEERS[name], first))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    return iter(DataLoader(data, BLOCK, sampler=order, num_workers=workers))


def ours(folder: Path, workers: int) -> Iterator[object]:
    split = load_dataset(f"imagefolder:{folder}", image_size=SIZE).train
    order = EpochOrder(seed=0, epoch=0, steps=len(split) // BLOCK, batch_size=BLOCK)
    return split.epoch(order, TwoViews(preset(SIZE, 3), seed=0), workers)


def speed(folder: Path, images: int, workers: int) -> None:
    clock = time.perf_counter if workers else time.process_time
    sides = {"gmje_bench": ours(folder, workers)} | {name: peer(folder, name, workers) for name in PEERS}
    for side in sides.values():
        next(side)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(images // BLOCK):
        for name, side in sides.items():
            start = clock()
            next(side)
            seconds[name].append(clock() - start)
    print(f"| two views of {SIZE} pixels | images a second | gmje_bench beside it |\n| --- | ---: | ---: |")
    for name, found in seconds.items():
        ratios = [theirs / own for theirs, own in zip(found, seconds["gmje_bench"], strict=True)]
        middle = statistics.median(ratios)
        spread = "" if name == "gmje_bench" else f"{middle:.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {BLOCK / statistics.median(found):.0f} | {spread} |")


def parity(folder: Path, images: int) -> None:
    """Print the distributions of boxes and pixels of both sides, on the same images."""
    split = load_dataset(f"imagefolder:{folder}", image_size=SIZE).train
    transform, draw = v2.RandomResizedCrop(SIZE, antialias=True), TwoViews(preset(SIZE, 3), seed=1)
    torch.manual_seed(1)
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(2))[:images]
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for step, positions in enumerate(split.positions[chosen].split(BLOCK)):
        encoded = [split.source.reader.read(position) for position in positions.tolist()]  # type: ignore[attr-defined]
        whole = [cropping._Encoded(*one).decoded(fewer=1)[0] for one in encoded]
        heights, widths = ([image.shape[axis] for image in whole] for axis in (-2, -1))
        draws = draw.crops(len(positions), epoch=0, step=step)
        views = cropping.read_views(encoded, draws)
        for view, boxes in enumerate(draws.boxes(heights, widths)):
            for place, image in enumerate(whole):
                sides[0].append(described(boxes[place].tolist(), image, views[view, place]))
                box = list(transform.make_params([image]).values())[:4]
                sides[1].append(described(box, image, F.resized_crop(image, *box, [SIZE, SIZE], antialias=True)))
    names = ("area", "width / height", "centre across", "centre down", "mean of pixels", "deviation of pixels")
    print("\n| crops | 10 %, 50 %, 90 % of gmje_bench | of torchvision | mean | mean | p |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    for name, own, other in zip(names, *(torch.stack(side).T for side in sides), strict=True):
        deciles = [
            ", ".join(f"{x:.3f}" for x in values.quantile(torch.tensor([0.1, 0.5, 0.9]))) for values in (own, other)
        ]
        p = ks_2samp(own.numpy(), other.numpy()).pvalue
        print(f"| {name} | {deciles[0]} | {deciles[1]} | {own.mean():.4f} | {other.mean():.4f} | {p:.2f} |")
    print(f"\n{len(sides[0])} crops on each side.")


def described(box: list[int], image: Tensor, view: Tensor) -> Tensor:
    top, left, height, width = box
    full_height, full_width = image.shape[-2:]
    pixels = view.float() / 255
    place = ((left + width / 2) / full_width, (top + height / 2) / full_height)
    numbers = (height * width / (full_height * full_width), width / height, *place, pixels.mean(), pixels.std())
    return torch.tensor([float(number) for number in numbers])


def decoders(folder: Path, images: int) -> None:
    """Print the CPU time of decoding an image and cutting two views, by decoder and fraction."""
    split = load_dataset(f"imagefolder:{folder}", image_size=SIZE).train
    encoded = [split.source.reader.read(int(p)) for p in split.positions[:images]]  # type: ignore[attr-defined]
    torchvision, ways = cropping._decode_jpeg, {"torchvision": 1, "Pillow": 1, "Pillow, half": 2, "Pillow, quarter": 4}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for one in encoded:
        for name, fraction in ways.items():
            cropping._decode_jpeg = torchvision if name == "torchvision" else None
            start = time.process_time()
            pixels, fewer = cropping._Encoded(*one).decoded(fraction)
            height, width = (int(0.7 * side * fewer) for side in pixels.shape[1:])
            for corner in (0, int(0.2 * height)):
                cropping.cut(pixels, (corner, corner, height, width), fewer, SIZE)
            seconds[name].append(time.process_time() - start)
    cropping._decode_jpeg = torchvision
    print("\n| decoding and two crops of half the area | ms an image |\n| --- | ---: |")
    for name, found in seconds.items():
        print(f"| {name} | {1e3 * statistics.median(found):.2f} |")


def listing(files: int) -> None:
    """Print how long it takes to list a folder, from the folder and from what was kept."""
    with tempfile.TemporaryDirectory() as place:
        for label in range(classes := 1000):
            (Path(place) / "train" / f"n{label:08}").mkdir(parents=True)
            for number in range(files // classes):
                (Path(place) / "train" / f"n{label:08}" / f"{number:05}.jpg").touch()
        time.sleep(4)  # What changed a moment ago is not kept.
        print(f"\n| listing of {files:,} files | ms |\n| --- | ---: |")
        for name in ("from the folder, and kept", "kept"):
            start = time.perf_counter()
            listed(Path(place) / "train", Path(place) / "cache")
            print(f"| {name} | {1e3 * (time.perf_counter() - start):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=960, help="images that each side reads")
    parser.add_argument("--workers", type=int, default=0, help="processes that read, on each side")
    parser.add_argument("--listing", type=int, help="list so many empty files, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    speed(options.folder, options.images, options.workers)
    decoders(options.folder, min(200, options.images))
    parity(options.folder, options.images)
    if options.listing:
        listing(options.listing)


if __name__ == "__main__":
    main()
