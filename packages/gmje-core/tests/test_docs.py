"""The pages of ``docs/``: their code runs as printed, in order, and what they name exists.

Pages whose code needs the hub or the harness run with the harness's tests.
"""

import inspect
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from printed_code import imports_package, python_blocks

from gmje_core import diagnostics
from gmje_core.criteria import CRITERIA, build_criterion
from gmje_core.estimator import JointEmbeddingMixture

DOCS = Path(__file__).parents[3] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FACES = [*CRITERIA.values(), JointEmbeddingMixture]
PAGES_WITH_CODE = [
    page for page in PAGES if python_blocks(page) and not imports_package(page, "gmje_hub", "gmje_bench")
]


def _name(page):
    return str(page.relative_to(DOCS))


@pytest.fixture(autouse=True)
def _same_numbers_on_every_run():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_the_pages_are_there():
    names = {_name(page) for page in PAGES}
    assert names >= {"README.md", "index.md", "concepts.md", "method.md", "remedies.md", "diagnostics.md"}
    assert len(PAGES_WITH_CODE) >= 9


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=_name)
def test_code_blocks_run(page, run_page):
    assert run_page(page)


def test_a_failing_block_is_named_by_file_and_line(tmp_path, run_page):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\n```\n\ntext\n\n```python\nx += 1\nassert x == 3\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_page(page)
    assert caught.value.__notes__ == ["in the code block that begins at page.md:10"]
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.filename, frame.lineno, frame.line) == (str(page), 11, "assert x == 3")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_relative_to(DOCS.parent), f"{_name(page)}: {link} leaves the repository"
        assert target.exists(), f"{_name(page)}: {link}"
        if anchor:
            assert anchor in _anchors(target), f"{page.name}: {link} is no heading of {target.name}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_inline_maths_survives_markdown(page):
    # Outside of ```math blocks a backslash before punctuation is Markdown's, and a formula ends with its line.
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert prose.count("$") % 2 == 0
    for formula in re.findall(r"\$(.+?)\$", prose, re.DOTALL):
        assert not re.search(r"\n|\\[,;!| {}\\]", formula), formula


def test_the_loop_for_several_processes_runs_as_printed(tmp_path):
    (block,) = python_blocks(DOCS / "how-to" / "several-gpus.md")
    script = tmp_path / "train.py"
    script.write_text(block, encoding="utf-8")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launcher += ["--log_dir", str(tmp_path), "--redirects", "1"]  # on one stream lines of two processes can mix
    done = subprocess.run([*launcher, str(script)], env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    losses = [float(log.read_text()) for log in tmp_path.rglob("stdout.log")]
    assert len(losses) == 2
    assert losses[0] == losses[1]  # that of the global batch, on every process


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_index_lists_every_page(page):
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert page.parent == DOCS / "notebooks" or page.name == "README.md" or f"]({_name(page)})" in index


def test_every_verdict_and_gauge_is_explained():
    text = (DOCS / "diagnostics.md").read_text(encoding="utf-8")
    verdicts = [value for value in vars(diagnostics).values() if isinstance(value, diagnostics.Verdict)]
    assert len(verdicts) >= 5
    for verdict in verdicts:
        assert f"`{verdict.name}`" in text, verdict.name
    for name in CRITERIA:
        criterion = build_criterion(name, 4)
        criterion(*torch.randn(2, 16, 4))
        for key in criterion.diagnostics():
            assert f"`{key}`" in text, (name, key)


def test_thresholds_are_those_of_the_code():
    text = (DOCS / "diagnostics.md").read_text(encoding="utf-8")
    named = re.findall(r"`([A-Z_]+) = ([\d.e-]+)`", text)
    assert {name for name, _ in named} == {"SPREAD_FLOOR", "RANK_FRACTION_FLOOR", "USAGE_FLOOR", "TRAP_TOLERANCE"}
    for name, value in named:
        assert getattr(diagnostics, name) == float(value), name


def test_every_criterion_has_its_section():
    text = (DOCS / "remedies.md").read_text(encoding="utf-8")
    for face in FACES:
        assert re.search(rf"^## .*\b{face.__name__}\b", text, re.MULTILINE), face.__name__


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_printed_signatures_are_those_of_the_code(face):
    text = (DOCS / "remedies.md").read_text(encoding="utf-8")
    (printed,) = re.findall(rf"^```\n({face.__name__}\(.*?\))\n```", text, re.MULTILINE | re.DOTALL)
    theirs = inspect.signature(eval(f"(lambda {printed[len(face.__name__) + 1 : -1]}: None)"))
    mine = inspect.signature(face)
    kinds = [[(p.name, p.kind, p.default) for p in signature.parameters.values()] for signature in (theirs, mine)]
    assert kinds[0] == kinds[1]


def test_every_method_of_the_estimator_is_named():
    text = (DOCS / "remedies.md").read_text(encoding="utf-8")
    section = text[text.index("## JointEmbeddingMixture") :]
    methods = {name for name in dir(JointEmbeddingMixture) if not name.startswith("_")}
    for name in methods:
        assert re.search(rf"`{name}[`(]", section), name


def _anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
