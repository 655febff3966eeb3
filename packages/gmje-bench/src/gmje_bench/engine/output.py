"""What a run writes beside its results: tensors, texts and figures."""

import logging
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from gmje_bench import report
from gmje_bench.alignment.engine import Picture
from gmje_bench.alignment.figure import draw_alignment
from gmje_bench.publishing import write_evaluations
from gmje_bench.runs import Results
from gmje_bench.suites import Suite
from gmje_core.files import write_atomic

__all__ = ["draw", "picture_path", "save_tensors", "write_text"]

logger = logging.getLogger(__name__)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as a safetensors file, whole or not at all; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}))


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_atomic(path, text.encode())


def picture_path(output: Path, task: str) -> Path:
    """Where the run folder ``output`` keeps the tensors that the picture of a synthetic task is drawn from."""
    return output / "artifacts" / f"synthetic-{task}.safetensors"


def draw(suite: Suite, results: Results, output: Path) -> None:
    """Draw the figures of a run; one that cannot be drawn is a warning, because the results are already written.

    Args:
        suite: What was run.
        results: The results of the run.
        output: The run folder, where the figures go.
    """
    figures: dict[str, Callable[[], None]] = {}
    if any(record.status == "ok" for record in results.records):
        figures["accuracy.png"] = lambda: report.draw_accuracy(results, output / "accuracy.png")
        figures["diagnostics.png"] = lambda: report.draw_diagnostics(results, output / "diagnostics.png")
    if suite.synthetic is not None:
        figures["alignment.png"] = lambda: draw_synthetic(suite, results, output)
    for name, draw_figure in figures.items():
        try:
            draw_figure()
        except Exception as error:
            logger.debug("%s", traceback.format_exc())
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"{name} was not drawn ({reason}); the results are not affected", stacklevel=2)
    write_evaluations(output, results)  # once more, with the figures


def draw_synthetic(suite: Suite, results: Results, output: Path) -> None:
    """Draw the truth and every method side by side, for the synthetic tasks whose pictures are in the folder."""
    assert suite.synthetic is not None
    paths = {task: picture_path(output, task) for task in suite.synthetic.tasks}
    pictures = [Picture.from_tensors(task, load_file(path)) for task, path in paths.items() if path.exists()]
    if pictures:
        records = [record for record in results.alignment if record.seed == suite.seeds[0]]
        draw_alignment(pictures, records, output / "alignment.png")
