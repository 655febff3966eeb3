"""The policy of run folders: what may be replaced, what may be resumed, and what is left alone."""

import json
import re
from pathlib import Path

from gmje_bench.errors import RunFolderError
from gmje_bench.runs.files import RESULTS, read_results, write_results
from gmje_bench.runs.schema import Results

__all__ = ["check_models", "check_resumable", "check_run_folder", "create_run_folder"]

_MODEL_CARD = "README.md"
# All that a run and its report write beside the results. Replacing a run removes these files and no other.
_WRITTEN = (
    "results.md",
    "results.csv",
    "results.parquet",
    "report.html",
    "accuracy.png",
    "diagnostics.png",
    "alignment.png",
    "artifacts/*-seed[0-9]*.safetensors",
    "artifacts/synthetic-*.safetensors",
    "checkpoints/*-seed[0-9]*.safetensors",
    "profile/*-seed[0-9]*.json",
    *(
        f"models/*-seed[0-9]*/{name}"
        for name in (
            "model.safetensors",
            "config.json",
            "preprocessor_config.json",
            _MODEL_CARD,
            "evaluation/scores.json",
            "evaluation/accuracy.png",
            "evaluation/diagnostics.png",
        )
    ),
)
# `write_atomic` leaves a file `.NAME.HEX` where the process is killed while it writes `NAME`.
_TEMPORARY = ".{}." + 32 * "[0-9a-f]"
# The first file of a run is its results: a run that was killed before has left nothing but this.
_LEFTOVER = re.compile(_TEMPORARY.format(re.escape(RESULTS)))
# Results of any version have these keys; a file of the same name that another program wrote has not.
_KEYS = {"suite", "protocol", "records"}


def check_run_folder(folder: Path, *, overwrite: bool) -> None:
    """Check, changing nothing, that a new run may go into the folder.

    Args:
        folder: The folder; it need not exist.
        overwrite: Whether an earlier run in it may be replaced.

    Raises:
        RunFolderError: the folder holds a run (without ``overwrite``), or it holds files and no run.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"{folder} is a file; --output takes a folder")
        entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    except OSError as error:
        raise RunFolderError(f"cannot read {folder}: {error.strerror or error}") from error
    if all(_LEFTOVER.fullmatch(name) for name in entries):
        return
    if RESULTS not in entries:
        raise RunFolderError(f"{folder} is not empty and holds no {RESULTS}: it is not a run; choose another --output")
    if not overwrite:
        raise RunFolderError(f"{folder} exists and is not empty; choose another --output or add --overwrite")
    _check_is_a_run(folder / RESULTS)


def _check_is_a_run(path: Path) -> None:
    """Raise unless the file is a run's, of whatever version; what only has the same name is never replaced."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError:  # no JSON, or no text
        found = None
    if not isinstance(found, dict) or not found.keys() >= _KEYS:
        raise RunFolderError(f"{path} holds no results of a run, and --overwrite leaves it alone; move it or remove it")


def check_resumable(folder: Path) -> None:
    """Check, changing nothing, that a run can go on in the folder.

    Args:
        folder: The folder of a run that was stopped; one that is not there, or empty, is where a run can start.

    Raises:
        RunFolderError: the folder's results cannot be read, or it holds something other than a run.
    """
    if (folder / RESULTS).exists():
        read_results(folder)
    else:
        check_run_folder(folder, overwrite=False)


def check_models(folder: Path, results: Results) -> None:
    """Check that every method that finished left a whole file of weights.

    Args:
        folder: The run folder.
        results: The results of the run.

    Raises:
        RunFolderError: a file is missing or damaged; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    for record in results.records:
        path = folder / "models" / f"{record.method}-seed{record.seed}" / "model.safetensors"
        try:
            if record.status == "ok":
                with safe_open(path, "np"):
                    pass
        except (SafetensorError, OSError) as error:
            raise RunFolderError(f"{path} is missing or damaged ({error})") from error


def create_run_folder(folder: Path, results: Results, *, overwrite: bool) -> None:
    """Make the folder and write the first results, which proves before hours of training that it can be written.

    From then on it is the new run's. Only then the files of an earlier run are removed, those with names that a run
    writes; others stay, among them cards of models that were written by hand.

    Args:
        folder: Where the results go; missing parents are made.
        results: The results of the run that starts, without records.
        overwrite: Whether an earlier run in the folder may be replaced.

    Raises:
        RunFolderError: as in :func:`check_run_folder`, or the folder cannot be written.
    """
    check_run_folder(folder, overwrite=overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder, results)
        for path in _earlier_files(folder):
            path.unlink()
    except OSError as error:
        raise RunFolderError(f"cannot write {folder}: {error.strerror or error}") from error


def _earlier_files(folder: Path) -> list[Path]:
    """Files that an earlier run has written beside its results, and those that it was writing when it was killed."""
    found = [*folder.glob(_TEMPORARY.format(RESULTS))]
    for pattern in _WRITTEN:
        place, separator, name = pattern.rpartition("/")
        for each in (name, _TEMPORARY.format(name)):
            found += folder.glob(place + separator + each)
    return [path for path in found if path.is_file() and not _is_written_by_hand(path)]


def _is_written_by_hand(path: Path) -> bool:
    """Whether a file is the card of a model, and not as this package wrote it."""
    if path.name != _MODEL_CARD:
        return False
    from gmje_hub.card import is_generated

    return not is_generated(path.read_text("utf-8", errors="replace"))
