"""Generate a folder of JPEG images in ImageNet's layout: about 500 x 375 pixels and 100 kB each, of a thousand classes.

    python benchmarks/imagenet_like.py FOLDER [--images 20000] [--classes 1000] [--width 500] [--seed 0]

A fifth of the images of every class are in FOLDER/val, the rest in FOLDER/train. Each image is smooth colours of its
class with noise of its own; widths and heights vary by a fifth. Images that are there already are left alone, so that
the same command goes on where it was stopped.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

_TEST_SHARE = 0.2


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=500, help="mean width in pixels; heights are three quarters")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    each = options.images // options.classes
    if each < 2:
        parser.error(f"--images {options.images} are fewer than two of each of {options.classes} classes")
    held_out = max(1, round(_TEST_SHARE * each))
    for label in range(options.classes):
        colours = np.random.default_rng([options.seed, label]).integers(256, size=(6, 8, 3))
        for part in ("train", "val"):
            (options.folder / part / f"n{label:08}").mkdir(parents=True, exist_ok=True)
        for number in range(each):
            part = "val" if number < held_out else "train"
            path = options.folder / part / f"n{label:08}" / f"{number:05}.jpg"
            if not path.exists():
                picture(colours, options.width, [options.seed, label, number]).save(path, quality=90)


def picture(colours: np.ndarray, mean_width: int, seed: list[int]) -> Image.Image:
    """An image of a class: its colours, moved and enlarged, with noise that makes the file as large as a photograph."""
    rng = np.random.default_rng(seed)
    width, height = (int(side * rng.uniform(0.8, 1.2)) for side in (mean_width, 3 * mean_width / 4))
    moved = np.clip(np.roll(colours, rng.integers(8), axis=1) + rng.normal(0, 30, colours.shape), 0, 255)
    smooth = np.asarray(Image.fromarray(moved.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))
    grain = rng.integers(-12, 13, size=(height, width, 1), dtype=np.int16)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
