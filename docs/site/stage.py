"""Lay out the sources of the site: the repository's Markdown files as pages, and the API reference.

``python docs/site/stage.py FOLDER`` fills ``FOLDER``, from which Sphinx builds. Markdown in this repository is written
to be read where it lies; here the same files become pages of the site, and their relative links are turned to the
pages' places. A link to nothing is an error.
"""

import argparse
import posixpath
import re
import shutil
import sys
from pathlib import Path

from reference import reference_pages

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Files outside of ``docs`` that are pages, and where the site has them.
ELSEWHERE = {
    "benchmarks/README.md": "results/index.md",
    "packages/gmje-core/README.md": "packages/core.md",
    "packages/gmje-bench/README.md": "packages/bench.md",
    "packages/gmje-hub/README.md": "packages/hub.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",  # links to the repository's front page lead to the site's
}
#: What a link to a folder, which GitHub shows by its list of files, leads to.
FOLDERS = {"benchmarks/results": "results/index.md"}
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
CODE = re.compile(r"^(```+|~~~+).*?^\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)
TOCTREE = "\n```{{toctree}}\n:hidden:\n:glob:\n\n{}\n```\n"


class LinkError(Exception):
    """A link of a page leads nowhere."""


def site_pages() -> dict[str, str]:
    """The place on the site of every Markdown file and notebook, by its path in the repository."""
    own = [path for suffix in ("md", "ipynb") for path in DOCS.rglob(f"*.{suffix}") if path != DOCS / "README.md"]
    pages = {str(path.relative_to(ROOT)): str(path.relative_to(DOCS)) for path in own}
    results = {str(path.relative_to(ROOT)): f"results/{path.name}" for path in ROOT.glob("benchmarks/results/*.md")}
    programs = [path for path in DOCS.glob("examples/**/*.py") if not path.stem.startswith("test_")]
    examples = {str(path.relative_to(ROOT)): str(path.relative_to(DOCS).with_suffix(".md")) for path in programs}
    return pages | results | examples | ELSEWHERE | {"docs/README.md": "index.md"}


class Stage:
    """The folder of sources.

    Args:
        output: The folder; it is emptied first.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.pages = site_pages()
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)

    def write(self, place: str, text: str) -> None:
        """Write one source file."""
        path = self.output / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def page(self, source: str, place: str) -> str:
        """The text of a page, with its links turned to the site's places."""
        text = (ROOT / source).read_text(encoding="utf-8")
        parts, end = [], 0
        for code in CODE.finditer(text):
            parts += [self._turn(text[end : code.start()], source, place), code[0]]
            end = code.end()
        return "".join([*parts, self._turn(text[end:], source, place)])

    def _turn(self, text: str, source: str, place: str) -> str:
        def turned(match: re.Match[str]) -> str:
            before, link, after = match.groups()
            if re.match(r"[a-z]+:|#|<", link):
                return match[0]
            path, _, anchor = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
            there = self._place(target, f"{source}: {link}")
            if before.startswith("!"):
                return self._picture(before, target, there, place)
            relative = posixpath.relpath(there, posixpath.dirname(place) or ".")
            return f"{before}{relative}{'#' + anchor if anchor else ''}{after}"

        return LINK.sub(turned, text)

    def _place(self, target: str, what: str) -> str:
        """Where the site has a file or folder of the repository."""
        for known in (self.pages, FOLDERS):
            if target in known:
                return known[target]
        if f"{target}/README.md" in self.pages:
            return self.pages[f"{target}/README.md"]
        path = ROOT / target
        if target.startswith("..") or not path.is_file():
            raise LinkError(f"{what} leads to no file or page")
        place = str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else f"files/{target}"
        copy = self.output / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        return place

    def _picture(self, before: str, target: str, there: str, place: str) -> str:
        """A picture, with its dark twin where there is one."""
        folder = posixpath.dirname(place) or "."
        relative = posixpath.relpath(there, folder)
        stem, suffix = posixpath.splitext(target)
        dark = f"{stem}-dark{suffix}"
        if not (ROOT / dark).is_file():
            return f"{before}{relative})"
        twin = posixpath.relpath(self._place(dark, target), folder)
        return f"{before}{relative}){{.only-light}} {before}{twin}){{.only-dark}}"


def example_page(path: Path) -> str:
    """The page of an example: its docstring, and the file."""
    title = path.stem.replace("_", " ").capitalize()
    text = path.read_text(encoding="utf-8")
    docstring = re.match(r'r?"""(.*?)"""', text, re.DOTALL)
    said = docstring[1].strip() if docstring else ""
    return f"# {title}\n\n{said}\n\n```{{literalinclude}} {path.name}\n:language: python\n```\n"


def stage(output: Path) -> None:
    """Fill the folder."""
    folder = Stage(output)
    for source, place in folder.pages.items():
        if source in ("README.md", "docs/README.md"):
            continue
        if source.endswith(".md"):
            text = folder.page(source, place)
            folder.write(place, text + TOCTREE.format("*") if place == "results/index.md" else text)
        elif source.endswith(".py"):
            folder.write(place, example_page(ROOT / source))
            shutil.copyfile(ROOT / source, (output / place).with_suffix(".py"))
        else:
            folder.write(place, (ROOT / source).read_text(encoding="utf-8"))
    for place, text in reference_pages(ROOT).items():
        folder.write(place, text)


def main() -> None:
    """Fill the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the folder; it is emptied first")
    try:
        stage(parser.parse_args().output)
    except LinkError as error:
        sys.exit(f"stage: {error}")


if __name__ == "__main__":
    main()
