"""The order of a run: images are loaded, every method is tried with every seed, figures are drawn.

A method that fails does not stop the others. Results are written after every record, training is checkpointed after
every epoch, and what has finished is not done again when a run is resumed.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.engine.output import draw
from gmje_bench.engine.progress import Reporter
from gmje_bench.engine.resume import take_up
from gmje_bench.engine.state import Launch, RunState
from gmje_bench.engine.synthetic import run_synthetic
from gmje_bench.engine.trial import run_trial
from gmje_bench.methods import METHODS
from gmje_bench.planning.preview import DataShape, check_builds, precision, resolved
from gmje_bench.processes import agreed_folder, on_main, set_tf32, start_accelerator
from gmje_bench.runs import Results, create_run_folder, read_results, write_results
from gmje_bench.suites import Suite
from gmje_bench.training.interrupts import Interrupts
from gmje_bench.training.profiling import check_trackers
from gmje_bench.training.schedule import plan

__all__ = ["run"]


def run(suite: Suite, launch: Launch) -> Results:
    """Run a suite and write its folder.

    Args:
        suite: What to run, with the options of the command line applied.
        launch: How the run was started.

    Returns:
        The results, which are the same on the main process and in the folder.

    Raises:
        BenchError: an error that the user can correct, found before anything is trained; or a full disk.
        Interrupted: Ctrl-C or SIGTERM; what has finished and a checkpoint of the rest are in the folder.
    """
    check_trackers(launch.track)
    accelerator = start_accelerator(
        precision(suite), tracker=launch.track, folder=launch.output, processes=launch.processes
    )
    launch = replace(launch, output=agreed_folder(accelerator, launch.output))
    set_tf32(suite.training.tf32)
    suite, data = prepare(suite, accelerator)
    state = RunState(suite, launch, accelerator, data)
    on_main(accelerator, lambda: open_folder(state))
    if accelerator.num_processes > 1 and launch.mode == "resume":
        state.results = read_results(launch.output)  # The main process has brought them up to date.
    with ExitStack() as stack:
        epochs = suite.training.epochs * len(suite.methods) * len(suite.seeds)
        reporter = stack.enter_context(Reporter(active=accelerator.is_main_process, total=epochs))
        stack.enter_context(warnings_to(reporter))
        interrupts = stack.enter_context(Interrupts())
        if launch.track:
            accelerator.init_trackers("gmje_bench", config=flat(state.results.options))
        if state.data is not None:
            run_trials(state, reporter, interrupts)
        if suite.synthetic is not None and accelerator.is_main_process:
            run_synthetic(state, reporter)
        on_main(accelerator, lambda: draw(suite, state.results, state.output))
    accelerator.end_training()
    return state.results


def prepare(suite: Suite, accelerator: Accelerator) -> tuple[Suite, ImageData | None]:
    """Load the images, resolve the suite and try to build every method: a wrong option shows before training does."""
    if suite.dataset is None:
        return resolved(suite, None), None
    with accelerator.local_main_process_first():  # One process of a machine downloads, not all of them.
        data = load_dataset(
            suite.dataset,
            image_size=suite.image_size,
            limit=suite.limit,
            held_out_classes=suite.held_out_classes,
        )
    shape = DataShape.of(data)
    suite = resolved(suite, shape)
    plan(len(data.train), suite.training, accelerator)
    check_builds(suite, shape)
    return suite, data


def open_folder(state: RunState) -> None:
    """Make the run folder, or take up what is in it; called on the main process."""
    launch = state.launch
    if launch.mode == "resume" and (launch.output / "results.json").exists():
        take_up(state.results, launch.output)
        write_results(launch.output, state.results)
    else:
        create_run_folder(launch.output, state.results, overwrite=launch.mode == "overwrite")


def run_trials(state: RunState, reporter: Reporter, interrupts: Interrupts) -> None:
    """Try every method with every seed; a model that was trained before is measured once."""
    suite = state.suite
    for seed in suite.seeds:
        for method in suite.methods:
            if METHODS[method].pretrained and seed != suite.seeds[0]:
                reporter.skip(suite.training.epochs, f"{method} seed {seed}: one model, measured once")
                continue
            run_trial(state, method, seed, reporter, interrupts)


def flat(options: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested options as the configuration of a tracker, which takes no nested ones.

    Examples:
        >>> flat({"training": {"epochs": 2}, "seeds": [0]})
        {'training.epochs': 2, 'seeds': '[0]'}
    """
    found: dict[str, str | int | float | bool] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str | int | float | bool) else str(value)
    return found


@contextmanager
def warnings_to(reporter: Reporter) -> Iterator[None]:
    """Show warnings as single lines of the report, each text once."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        text = f"warning: {message}"
        if text not in seen:
            seen.add(text)
            reporter.line(text)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        yield
