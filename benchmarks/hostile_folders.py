"""How fast, and in how much memory, hostile and damaged model folders are refused, beside loading the good one.

    python benchmarks/hostile_folders.py [--repeat 3]

The folders are those of the tests of gmje-hub. A row a statistic; exit status 1 where a folder is not refused with a
typed error, takes a second or 200 MB, or leaves a file behind.
"""

import argparse
import statistics
import sys
import tempfile
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch

from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import GMJEModel, HubError

SECONDS, MEMORY = 1.0, 200 * 10**6
TESTS = Path(__file__).parents[1] / "packages" / "gmje-hub" / "tests" / "test_folder.py"


def load_tests() -> ModuleType:
    spec = spec_from_file_location("test_folder", TESTS)
    if spec is None or spec.loader is None:
        sys.exit(f"no folders to try: {TESTS} is missing")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak() -> int:
    """Most bytes that this process has held since the peak was last cleared (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def attempt(folder: Path) -> tuple[float, int, str]:
    """Seconds, bytes, and the error's name; empty where there is none."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start, name = peak(), time.perf_counter(), ""
    try:
        GMJEModel.from_pretrained(folder)
    except HubError as error:
        name = type(error).__name__
    return time.perf_counter() - start, peak() - before, name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="times that each folder is tried; the slowest counts")
    repeat = parser.parse_args().repeat
    tests = load_tests()
    torch.manual_seed(0)
    config = GMJEConfig(
        backbone="smallconv", in_channels=1, image_size=28, dim=8, hidden=16, criterion_options={"components": 4}
    )
    model = GMJEModel(config, Preprocessing(size=28, image_mean=(0.25,), image_std=(0.5,)))
    seconds, memory, errors, wrong = {}, {}, {}, []
    with tempfile.TemporaryDirectory() as root:
        good = Path(root) / "good" / "model"
        model.save_pretrained(good)
        content = {path.name: path.read_bytes() for path in good.iterdir()}
        loading = [attempt(good)[0] for _ in range(11)][1:]  # the first one imports
        for number, (case, damage) in enumerate(tests.CASES.items()):
            folder = Path(root) / str(number) / "model"
            folder.mkdir(parents=True)
            for name, data in content.items():
                (folder / name).write_bytes(data)
            damage(folder)
            before = sorted(folder.parent.rglob("*"))
            tries = [attempt(folder) for _ in range(repeat)]
            seconds[case], memory[case] = max(t[0] for t in tries), max(t[1] for t in tries)
            errors[case] = tries[0][2]
            left = sorted(folder.parent.rglob("*")) != before
            if not errors[case] or left or seconds[case] >= SECONDS or memory[case] >= MEMORY:
                wrong.append(case)
    unit = statistics.median(loading)
    print(f"{len(errors)} folders, {len(errors) - len(wrong)} refused within {SECONDS:g} s and {MEMORY / 1e6:g} MB")
    print(f"the good folder loads in {unit * 1e3:.1f} ms (median of {len(loading)})\n")
    print("| of the folders | milliseconds | of a good load | MB | folder |\n| --- | --: | --: | --: | --- |")
    slowest, largest = max(seconds, key=seconds.__getitem__), max(memory, key=memory.__getitem__)
    middle = statistics.median(seconds.values())
    print(f"| median | {middle * 1e3:.1f} | {middle / unit:.2f} | {statistics.median(memory.values()) / 1e6:.1f} | |")
    for title, case in (("slowest", slowest), ("largest", largest)):
        ratio = seconds[case] / unit
        print(f"| {title} | {seconds[case] * 1e3:.1f} | {ratio:.2f} | {memory[case] / 1e6:.1f} | {case} |")
    print("\n" + ", ".join(f"{name} {list(errors.values()).count(name)}" for name in sorted(set(errors.values()))))
    if wrong:
        sys.exit(f"wrong: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
