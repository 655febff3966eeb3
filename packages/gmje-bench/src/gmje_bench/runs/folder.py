"""The policy of run folders: what may be replaced, what may be resumed, and what is left alone."""

from pathlib import Path

from gmje_bench.errors import RunFolderError
from gmje_bench.runs.files import RESULTS, read_results
from gmje_bench.runs.schema import Results

__all__ = ["check_models", "check_resumable", "check_run_folder", "create_run_folder"]

_FOLDERS = ("models", "artifacts", "checkpoints", "profile")
_FILES = (
    RESULTS,
    "results.md",
    "results.csv",
    "results.parquet",
    "report.html",
    "accuracy.png",
    "diagnostics.png",
    "alignment.png",
)
# `write_atomic` leaves files with these prefixes where the process is killed while it writes.
_TEMPORARY = (".probe", *(f".{name}." for name in _FILES))


def check_run_folder(folder: Path, *, overwrite: bool) -> None:
    """Check, changing nothing, that a run may go into the folder.

    Args:
        folder: The folder; it need not exist.
        overwrite: Whether an earlier run in it may be replaced.

    Raises:
        RunFolderError: the folder is not empty (without ``overwrite``), or it holds something other than a run.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"{folder} is a file; --output takes a folder")
        entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    except OSError as error:
        raise RunFolderError(f"cannot read {folder}: {error.strerror or error}") from error
    if entries and not overwrite:
        raise RunFolderError(f"{folder} exists and is not empty; choose another --output or add --overwrite")
    # A run that was killed before its first result has no results.json, but all files in it belong to a run.
    if RESULTS not in entries and not all(_is_ours(name) for name in entries):
        raise RunFolderError(f"{folder} holds no {RESULTS}: it is not a run, and --overwrite leaves it alone")


def _is_ours(name: str) -> bool:
    return name in _FILES or name in _FOLDERS or name.startswith(_TEMPORARY)


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
        check_run_folder(folder, overwrite=True)


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


def create_run_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the folder and prove that it can be written, before hours of training.

    Args:
        folder: Where the results go; missing parents are made.
        overwrite: Whether an earlier run's files in it may be removed; other files stay.

    Raises:
        RunFolderError: as in :func:`check_run_folder`, or the folder cannot be written.
    """
    from gmje_core.files import write_atomic

    check_run_folder(folder, overwrite=overwrite)
    try:
        if folder.is_dir():
            inside = [entry for name in _FOLDERS for entry in (folder / name).rglob("*")]
            for entry in [*(entry for entry in folder.iterdir() if _is_ours(entry.name)), *inside]:
                if entry.is_file():
                    entry.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ".probe", b"\0" * 4096)
        (folder / ".probe").unlink()
    except OSError as error:
        raise RunFolderError(f"cannot write {folder}: {error.strerror or error}") from error
