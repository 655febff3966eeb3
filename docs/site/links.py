"""Check the links of the built site: ``python docs/site/links.py FOLDER``.

Links within the site must lead to a file, and to an anchor where they name one. Links elsewhere are looked at by form
alone, without a network. Scripts, styles and pictures must lie in the site, so that it can be read without a network.
"""

import argparse
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Of these the browser fetches the target by itself.
FETCHED = {"script": "src", "img": "src", "source": "srcset", "link": "href", "iframe": "src"}
#: Kinds of ``<link>`` that are fetched.
RELATIONS = {"stylesheet", "icon", "preload"}


@dataclass
class Page(HTMLParser):
    """The anchors and links of a page.

    Attributes:
        anchors: Every ``id`` and ``name``.
        links: Every target, with whether the browser fetches it by itself.
    """

    anchors: set[str] = field(default_factory=set)
    links: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what a tag holds."""
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append((values["href"], False))
        elif tag in FETCHED and FETCHED[tag] in values:
            relation = set(values.get("rel", "stylesheet").split())
            self.links.append((values[FETCHED[tag]], tag != "link" or bool(relation & RELATIONS)))


def read_page(path: Path) -> Page:
    """Read a file of the site."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def faults(site: Path) -> list[str]:
    """What is wrong with the links of a site, a line each."""
    pages = {path: read_page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    found = []
    for path, page in pages.items():
        for link, fetched in page.links:
            fault = _fault(site, path, pages, link, fetched)
            if fault:
                found.append(f"{path.relative_to(site)}: {link}: {fault}")
    return found


def _fault(site: Path, path: Path, pages: dict[Path, Page], link: str, fetched: bool) -> str:
    parts = urlsplit(link)
    if parts.scheme in ("http", "https"):
        if fetched:
            return "fetched from the network"
        return "" if "." in parts.netloc and " " not in link else "no address"
    if parts.scheme:
        return "" if parts.scheme in ("mailto", "data") else f"unknown scheme {parts.scheme!r}"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_relative_to(site):
        return "leaves the site"
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "no such anchor"
    return ""


def main() -> None:
    """Check the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="the built site")
    site = parser.parse_args().site.resolve()
    if not (site / "index.html").is_file():
        sys.exit(f"links: there is no site in {site}")
    found = faults(site)
    if found:
        sys.exit("\n".join([f"links: {len(found)} faults", *found]))


if __name__ == "__main__":
    main()
