"""The page shows what a run's results and artifacts say, in sections that a template lays out in one HTML file.

A section whose inputs the run lacks is left out, and the page says which and why; one that fails is replaced by a line.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from gmje_bench.errors import BenchError
from gmje_bench.report.blocks import Content, Words
from gmje_bench.report.embed import Drawer
from gmje_bench.report.export import to_csv, to_parquet
from gmje_bench.report.sections.curves import curves
from gmje_bench.report.sections.latent import latent
from gmje_bench.report.sections.leaderboard import leaderboard
from gmje_bench.report.sections.neighbours import neighbours
from gmje_bench.report.sections.synthetic import synthetic
from gmje_bench.report.sections.verdicts import verdicts
from gmje_bench.report.sections.what import what
from gmje_bench.report.tables import caption, markdown
from gmje_bench.runs.reading import Run
from gmje_bench.tasks import TASKS

__all__ = ["Page", "Paths", "render", "write_report"]

logger = logging.getLogger(__name__)


class Paths(NamedTuple):
    """Files of a report."""

    html: Path
    markdown: Path
    csv: Path
    parquet: Path

    @classmethod
    def of(cls, run: Path, output: Path | None = None) -> "Paths":
        """The paths of the files: in the run folder, or beside the page that is asked for and under its name.

        Examples:
            >>> [path.name for path in Paths.of(Path("runs/a"))]
            ['report.html', 'results.md', 'results.csv', 'results.parquet']
            >>> [path.name for path in Paths.of(Path("runs/a"), Path("out/page.html"))]
            ['page.html', 'page.md', 'page.csv', 'page.parquet']
        """
        if output is None:
            return cls(run / "report.html", *(run / f"results.{kind}" for kind in ("md", "csv", "parquet")))
        return cls(output, *(output.with_suffix(f".{kind}") for kind in ("md", "csv", "parquet")))


def write_report(run: Run, paths: Paths, *, reference: str | None = None) -> tuple[str, ...]:
    """Render everything, then write: where an error is raised, no file has changed.

    Args:
        run: What :func:`gmje_bench.runs.reading.read_run` gave.
        paths: What :meth:`Paths.of` gave; the folder must exist.
        reference: The method that others are tested against; the best of each metric where missing.

    Returns:
        The sections that cannot be shown, with the reason; the page has a line in the place of each.

    Raises:
        OptionError: the run has no method ``reference``.
        OSError: a file cannot be written.
    """
    from gmje_core.files import write_atomic

    page = render(run, reference=reference)
    files = {
        paths.html: page.text.encode(),
        paths.markdown: markdown(run.results).encode(),
        paths.csv: to_csv(run.results).encode(),
        paths.parquet: to_parquet(run.results),
    }
    for path, content in files.items():
        write_atomic(path, content)
    return page.broken


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        name: Its identifier on the page.
        title: Its heading.
        make: A function from the run and a drawer to its blocks; nothing, where the run lacks its inputs.
        missing: What to say then.
    """

    name: str
    title: str
    make: Callable[[Run, Drawer], Content]
    missing: str


def page_sections() -> list[Section]:
    """The sections in the page's order: those of every run, then those of the tasks."""
    return [
        Section("verdicts", "Verdicts and failures", verdicts, "no method has run"),
        Section("leaderboard", "Leaderboard", leaderboard, "no method has finished all of its seeds"),
        Section("curves", "Learning curves", curves, "no record holds a history of training"),
        Section("latent", "Latent map", latent, "no artifact holds latent coordinates"),
        Section("neighbours", "Nearest neighbours", neighbours, "no artifact holds neighbours"),
        Section("synthetic", "Synthetic tasks", synthetic, "the run has no synthetic tasks"),
        *(
            Section(task.name, task.title, task.load_section(), f"the run has nothing of the task {task.name}")
            for task in TASKS.values()
            if task.section
        ),
    ]


class Page(NamedTuple):
    """The page as text, and the sections that cannot be shown: title and reason of each."""

    text: str
    broken: tuple[str, ...]


def render(run: Run, *, reference: str | None = None) -> Page:
    """Render the page; where a section fails, one line on the page says so in its place.

    Args:
        run: What to show.
        reference: The same as in :func:`write_report`.

    Raises:
        OptionError: the run has no such method.
    """
    run, drawer = replace(run, reference=reference), Drawer()
    shown, left_out, broken = [], [], []
    with drawer.style():
        for section in page_sections():
            try:
                blocks = section.make(run, drawer)
            except BenchError:  # The user can correct it, such as the name of a method.
                raise
            except Exception as error:  # A section that fails must not take the others with it.
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                logger.debug("the section %s cannot be shown", section.name, exc_info=True)
                broken.append(f"{section.title} ({reason})")
                blocks = [Words(f"This section cannot be shown ({reason}).", problem=True)]
            if blocks:
                shown.append({"name": section.name, "title": section.title, "blocks": blocks})
            else:
                left_out.append((section.title, section.missing))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gmje_bench.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.j2").render(
        results=run.results,
        what=what(run),
        caption=caption(run.results),
        sections=shown,
        left_out=left_out,
        missing=run.missing,
        css=Markup((resources.files("gmje_bench.report") / "page.css").read_text()),
    )
    return Page(text, tuple(broken))
