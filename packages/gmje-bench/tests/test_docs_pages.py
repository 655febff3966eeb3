"""The pages whose code needs the harness or the hub, run as printed; the site's sources; the scripts of its figures."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from printed_code import imports_package, run_page

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [page for page in DOCS.rglob("*.md") if imports_package(page, "gmje_hub", "gmje_bench")]
PAGES.append(ROOT / "packages/gmje-bench/README.md")
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.md"))
FIGURES = sorted(script for script in DOCS.glob("figures/*.py") if script.stem not in ("themes", "tables"))
LIGHT, DARK = "#ffffff", "#131416"  # of the papers


def test_there_are_pages_and_figures():
    assert {page.stem for page in PAGES} >= {"publish", "evaluate", "README"}
    assert len(NOTEBOOKS) == 4
    assert {script.stem for script in FIGURES} >= {
        "concepts",
        "conditional",
        "contrastive_limit",
        "recorded_density",
        "recorded_speed",
        "recorded_vision",
        "trap",
        "two_answers",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page):
    with torch.random.fork_rng(devices=[]):
        assert run_page(page)


@pytest.mark.parametrize("script", FIGURES, ids=lambda script: script.stem)
def test_a_figure_is_drawn_in_both_themes_and_lies_in_the_docs(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert drawn.keys() == {f"{script.stem}.svg", f"{script.stem}-dark.svg"}
    for name, text in drawn.items():
        assert ElementTree.fromstring(text).tag.endswith("svg")
        paper, other = (DARK, LIGHT) if "-dark" in name else (LIGHT, DARK)
        assert f"fill: {paper}" in text
        assert other not in text
        kept = (DOCS / "images" / name).read_text(encoding="utf-8")
        assert abs(len(kept) / len(text) - 1) < 0.2, f"{name} is not what its script draws: nox -s figures"
        source = re.findall(r"<dc:source>(.*)</dc:source>", text)
        assert bool(source) == script.stem.startswith("recorded_")
        assert re.findall(r"<dc:source>(.*)</dc:source>", kept) == source, (
            f"{name} is of an older table: nox -s figures"
        )


@pytest.fixture
def tables(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(DOCS / "figures"))
    import tables

    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    return tables


def test_tables_of_recorded_results(tables, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n\n| a | c |\n|--|--:|\n| y | -.5 ± 2 |\n| z |  |\n\nEnd\n"
    )
    table = tables.Table("page", "a", "c")
    assert table == [{"a": "y", "c": "-.5 ± 2"}, {"a": "z", "c": ""}]
    assert tables.numbers(table[0]["c"]) == [-0.5, 2.0]
    assert tables.numbers("-151 / 4.3 (3.3 to 4.7)") == [-151.0, 4.3, 3.3, 4.7]
    page.write_text(page.read_text().replace("± 2", "± 3"))
    assert tables.Table("page", "a", "c").source != table.source
    with pytest.raises(LookupError, match=r"page\.md has no table with the columns a, d"):
        tables.Table("page", "a", "d")


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_guards_what_it_says_and_leads_on(page):
    text = page.read_text(encoding="utf-8")
    assert f"notebooks/{page.stem}\n" in (DOCS / "index.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert sum("assert " in cell for cell in cells) >= 3
    assert all(cell.strip() for cell in cells)
    opening = re.search(r"^---\n.*?^---\n\n# [^\n]+\n\n(.+?)\n\n```\{code-cell\}", text, re.DOTALL | re.MULTILINE)
    assert opening
    assert "\n\n" not in opening[1], "one paragraph says what the reader will see"
    assert re.search(r"^## Where to go next\n\n(- \[.*\n(  .*\n)*)+\Z", text, re.MULTILINE)


@pytest.fixture
def stage(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "site"))
    import stage

    return stage


def test_the_sources_of_the_site_hold_every_page(stage, tmp_path):
    stage.stage(tmp_path)
    places = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert places >= {"index.md", "changelog.md", "results/vision.md", "packages/bench.md", "examples/align_uniform.md"}
    assert places >= {"api/core/criteria.rst", "api/hub.rst", "api/bench.rst", "images/trap-dark.svg"}
    assert "autoclass:: gmje_core.criteria.gmje.GMJE\n" in (tmp_path / "api/core/criteria.rst").read_text()
    # Links lead to where the site has things.
    assert "](results/vision.md)" in (tmp_path / "index.md").read_text()
    assert "](../scale.md)" in (tmp_path / "packages/bench.md").read_text()


def test_a_link_to_nothing_is_an_error(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    monkeypatch.setattr(stage, "DOCS", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text("[here](page.md) `[x](y.md)` [away](https://example.org)\n\n```\n[code](nothing.md)\n```\n")
    folder = stage.Stage(tmp_path / "out")
    assert folder.page("docs/page.md", "page.md").startswith("[here](page.md)")
    page.write_text("[there](nothing.md)\n")
    with pytest.raises(stage.LinkError, match=r"docs/page\.md: nothing\.md leads to no file or page"):
        folder.page("docs/page.md", "page.md")


def test_links_of_a_built_site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "site"))
    import links

    (tmp_path / "sub").mkdir()
    (tmp_path / "a.svg").write_text("<svg/>")
    (tmp_path / "index.html").write_text(
        '<h1 id="top">t</h1><img src="a.svg"><a href="sub/page.html#there">x</a><a href="#top">y</a>'
        '<a href="https://example.org/x">z</a><link rel="canonical" href="https://example.org/">'
    )
    (tmp_path / "sub" / "page.html").write_text('<p id="there"></p><a href="../index.html#top">x</a>')
    assert links.faults(tmp_path) == []
    (tmp_path / "sub" / "page.html").write_text(
        '<a href="../index.html#end">x</a><a href="gone.html">y</a><script src="https://cdn.example.org/x.js"></script>'
        '<a href="http://x y">z</a><a href="../../up.html">w</a>'
    )
    assert [fault.partition(": ")[2] for fault in links.faults(tmp_path)] == [
        "sub/page.html#there: no such anchor",
        "../index.html#end: no such anchor",
        "gone.html: no such file",
        "https://cdn.example.org/x.js: fetched from the network",
        "http://x y: no address",
        "../../up.html: leaves the site",
    ]
