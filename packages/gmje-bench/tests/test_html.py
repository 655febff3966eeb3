"""The report page: whole by itself, every section with its inputs, and nothing of a run's text as markup."""

import csv
import io
import json
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gmje_bench.cli import main
from gmje_bench.report.page import render
from gmje_bench.runs import AlignmentRecord, Record, write_results
from gmje_bench.runs.reading import read_run


def artifacts(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    def pictures(*size: int) -> torch.Tensor:
        return torch.randint(0, 256, (*size, 1, 8, 8), generator=generator, dtype=torch.uint8)

    coverage = torch.arange(1, 101) / 100
    tensors = {
        "latent.pca": rand(60, 2),
        "latent.tsne": rand(60, 2),
        "latent.label": torch.arange(60) % 10,
        "latent.component": torch.arange(60) % 9,
        "neighbours.query": pictures(4),
        "neighbours.images": pictures(4, 3),
        "neighbours.query_label": torch.arange(4),
        "neighbours.label": torch.arange(12).view(4, 3) % 4,
        "uncertainty.hpd_histogram.learned": torch.full((20,), 15.0),
    }
    for kind in ("learned", "softmax"):
        tensors[f"uncertainty.risk_coverage.{kind}"] = torch.stack([coverage, coverage / 5], dim=1)
    for side in ("inside", "outside"):
        tensors[f"uncertainty.ood_scores.learned.{side}"] = rand(50)
    for kind in ("test", "held_out", "digits"):
        tensors[f"outliers.density.{kind}"] = rand(50)
    levels = torch.arange(1, 20) / 20
    for of in ("conditional", "context"):
        curve = torch.stack([levels, levels.square(), levels - 0.02, levels + 0.02], dim=1)
        tensors[f"uncertainty.reliability.{of}.learned"] = curve
    for source in ("learned", "real", "original"):
        tensors[f"sampling.pictures.{source}"] = pictures(16)
    for part in ("context", "target", "real", "mean"):
        tensors[f"sampling.conditional.{part}"] = pictures(3)
    tensors["sampling.conditional.samples"] = pictures(3, 8)
    for part in ("context", "truth"):
        tensors[f"completion.{part}"] = pictures(5)
    for kind, count in (("predictor", 1), ("gaussian", 8), ("learned", 8)):
        tensors[f"completion.answers.{kind}"] = pictures(5, count)
    return tensors


DENSITY_METRICS = tuple(f"joint_nll.{kind}" for kind in ("gaussian", "best", "learned"))
COMPLETION_METRICS = ("completion_best.learned", "completion_error.predictor", "completion_calibration.learned")
OUTLIER_METRICS = ("auroc.digits.density", "fpr95.digits.density", "auroc.digits.knn")
HISTORY = [{"epoch": 1.0, "loss": 2.0, "effective_rank": 5.0}, {"epoch": 2.0, "loss": 1.0, "effective_rank": 6.0}]


@pytest.fixture
def folder(tmp_path, make_results):
    """A run of three methods, two of them whole."""
    records = []
    for method, level in (("gmje", 86.0), ("simclr", 84.0)):
        for seed in (0, 1, 2):
            metrics = {"linear_probe": level + 0.1 * seed, "knn": 80.0 + seed, "frechet.learned": 1.5, "nll.real": 0.0}
            metrics.pop("nll.real")
            metrics |= dict.fromkeys(OUTLIER_METRICS, 0.75 + 0.01 * seed)
            metrics |= dict.fromkeys(COMPLETION_METRICS, 0.15 + 0.01 * seed)
            metrics |= dict(zip(DENSITY_METRICS, (-10.0 - seed, -20.0, -25.0), strict=True))
            name = f"artifacts/{method}-seed{seed}.safetensors"
            (tmp_path / "artifacts").mkdir(exist_ok=True)
            save_file(artifacts(seed), tmp_path / name)
            records.append(
                Record(
                    method=method, seed=seed, status="ok", metrics=metrics, verdict="healthy", advice="Nothing.",
                    history=HISTORY, artifacts=name,
                )
            )  # fmt: skip
    error = "ValueError: <script>alert(1)</script> & more"
    records.append(Record(method="vicreg", seed=0, status="failed", error=error))
    results = make_results(*records)
    results.alignment = [
        AlignmentRecord(task="ring", dim=None, method=method, seed=0, metrics={"kl": kl, "recall": 1.0})
        for method, kl in (("truth", 0.0), ("gmje", 0.01))
    ]
    results.dataset.class_names = ["shoe", "<i>bag</i>"]
    results.command = "python -m gmje_bench run --suite '<b>'"
    write_results(tmp_path, results)
    Image.new("L", (30, 20)).save(tmp_path / "alignment.png")
    return tmp_path


class Page(HTMLParser):
    """Sections, images and places that a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "section":
            self.sections.append(values["id"] or "")
        if tag == "img":
            self.images.append(values)
        self.references += [values[key] or "" for key in ("src", "href", "xlink:href") if key in values]


EVERY = [
    "verdicts", "leaderboard", "curves", "latent", "neighbours", "synthetic", "uncertainty", "outliers", "sampling",
    "density", "completion", "run",
]  # fmt: skip


def test_the_page_is_whole_and_stands_alone(folder, capsys):
    assert main(["report", str(folder)]) == 0
    assert "report.html" in capsys.readouterr().out
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.sections == EVERY
    assert all(place.startswith(("#", "data:")) for place in page.references), "nothing from a network"
    assert "url(http" not in text
    assert "@import" not in text
    assert all(image["alt"] for image in page.images)
    assert page.tags.count("svg") > 10
    assert text.count('role="img"') == text.count('role="img" aria-label="')
    assert len(text) < 6e6
    assert "To tell 0.5 points apart in 80% of all cases takes so many seeds: 2 for linear probe, 2 for kNN." in text
    assert "over 3 seeds; one further run lies within 2.0 times that half in 95 % of all cases." in text


def test_text_of_a_run_is_never_markup(folder):
    text = render(read_run(folder)).text
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;b&gt;" in text
    assert "Classes: 0 shoe, 1 &lt;i&gt;bag&lt;/i&gt;." in text


def test_outliers_have_a_row_for_each_score(folder):
    text = render(read_run(folder)).text
    section = text[text.index('id="outliers"') : text.index('id="sampling"')]
    assert section.count(">learned density<") == 4, "two methods in two tables"
    assert section.count(">kNN, features<") == 2
    assert "0.760 ± 0.025" in section
    assert "handwritten digits ↑" in section
    assert "handwritten digits ↓" in section
    assert "auroc" not in text[text.index('id="leaderboard"') : text.index('id="curves"')].lower()


def test_answers_stand_beside_the_one_of_the_predictor(folder):
    text = render(read_run(folder)).text
    section = text[text.index('id="completion"') : text.index('id="run"')]
    assert section.count(">one answer, by least squares<") == 2, "a row of the table for each method"
    assert "0.160 ± 0.025" in section
    images = [image["alt"] or "" for image in Page(section).images]
    assert [alt.partition(": ")[2].partition(",")[0] for alt in images[:5]] == [
        "context", "truth", "one answer", "one Gaussian’s samples", "8 samples of the density that answers",
    ]  # fmt: skip
    assert len(images) == 10


def test_reliability_says_what_regions_hold(folder):
    assert "in regions of 90 %: the other view, given one 81.0 %, contexts 81.0 %" in render(read_run(folder)).text


def test_a_failed_method_is_a_failure_and_no_mean(folder):
    text = render(read_run(folder)).text
    lines = [line for line in text.splitlines() if "vicreg" in line]
    assert any("failed" in line and "▲" in line for line in lines)
    board = text[text.index('id="leaderboard"') : text.index('id="curves"')]
    assert "86.1" in board
    assert "84.1" in board
    assert "ValueError" in board


@pytest.mark.parametrize(("prefix", "section"), [
    ("latent", "latent"), ("neighbours", "neighbours"), ("uncertainty", "uncertainty"), ("sampling", "sampling"),
    ("outliers", "outliers"),
])  # fmt: skip
def test_sections_without_inputs_are_left_out_and_named(folder, prefix, section):
    for path in (folder / "artifacts").iterdir():
        save_file({k: v for k, v in artifacts(0).items() if not k.startswith(prefix)}, path)
    results = json.loads((folder / "results.json").read_text())
    for record in results["records"]:
        for name in ("frechet.learned", *OUTLIER_METRICS):
            record["metrics"].pop(name, None)
    (folder / "results.json").write_text(json.dumps(results))
    seen = Page(text := render(read_run(folder)).text)
    assert seen.sections == [name for name in EVERY if name != section] + ["left-out"]
    assert "Not on this page" in text


def test_samples_stand_side_by_side(folder):
    text = render(read_run(folder)).text
    section = text[text.index('id="sampling"') : text.index('id="density"')]
    images = [image["alt"] or "" for image in Page(section).images]
    beside = images[: images.index(next(alt for alt in images if "context" in alt))]
    assert [alt.partition(":")[0] for alt in beside] == ["16 test images", "gmje", "simclr"]
    assert all("8 decoded embeddings of real images" in alt for alt in beside[1:])
    assert sum("eight samples" in alt for alt in images) == 2
    assert sum("other view, of 3 test images" in alt for alt in images) == 2


@pytest.fixture
def broken_section(monkeypatch):
    def fail(run, drawer):
        raise ValueError("no <b>such</b>\nnumber")

    monkeypatch.setattr("gmje_bench.report.page.latent", fail)


@pytest.mark.usefixtures("broken_section")
def test_a_section_that_fails_is_one_line_and_the_rest_is_written(folder, capsys):
    assert main(["report", str(folder)]) == 1
    out, error = capsys.readouterr()
    assert "report.html" in out
    assert error == "left out of report.html: Latent map (ValueError: no <b>such</b> number)\n"
    text = (folder / "report.html").read_text()
    assert Page(text).sections == EVERY, "the place of the section is kept"
    assert "This section cannot be shown (ValueError: no &lt;b&gt;such&lt;/b&gt; number)." in text
    assert all((folder / f"results.{kind}").is_file() for kind in ("md", "csv", "parquet"))


def test_tables_hold_every_number(folder):
    assert main(["report", str(folder), "--output", str(folder / "page.html")]) == 0
    rows = list(csv.DictReader(io.StringIO((folder / "page.csv").read_text())))
    table = pq.read_table(folder / "page.parquet").to_pylist()
    assert len(rows) == len(table) == 6 * (6 + len(DENSITY_METRICS) + len(COMPLETION_METRICS)) + 1 + 2 * 2
    values = {(r["method"], r["seed"], r["metric"]): r["value"] for r in table}
    assert values["gmje", 2, "linear_probe"] == 86.2
    failed = next(r for r in table if r["status"] == "failed")
    assert (failed["metric"], failed["value"]) == (None, None)
    assert [r["method"] for r in rows] == [r["method"] for r in table]


def break_truncated(folder):
    path = folder / "artifacts" / "gmje-seed0.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def break_results(folder):
    (folder / "results.json").write_text("{")


def break_picture(folder):
    (folder / "alignment.png").write_bytes(b"\x89PNG nothing")


def break_shape(folder):
    save_file({"latent.pca": torch.zeros(5, 3)}, folder / "artifacts" / "gmje-seed0.safetensors")


def break_samples(folder):
    views = {f"sampling.conditional.{part}": torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
             for part, count in (("context", 3), ("mean", 2))}  # fmt: skip
    save_file(views, folder / "artifacts" / "gmje-seed0.safetensors")


def break_path(folder):
    text = (folder / "results.json").read_text().replace("artifacts/gmje-seed0", "../gmje-seed0")
    (folder / "results.json").write_text(text)


@pytest.mark.parametrize(("change", "words"), [
    (break_truncated, "is not a whole safetensors file"),
    (break_results, "is not a results file"),
    (break_picture, "is not a whole PNG file"),
    (break_shape, "latent.pca must have 2 columns"),
    (break_samples, "different sizes: sampling.conditional.context (3, 1, 8, 8), sampling.conditional.mean (2"),
    (break_path, "outside the run folder"),
])  # fmt: skip
def test_damaged_folders_are_one_line_and_nothing_is_written(folder, change, words, capsys):
    assert main(["report", str(folder)]) == 0
    before = (folder / "report.html").read_bytes()
    capsys.readouterr()
    change(folder)
    assert main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert (folder / "report.html").read_bytes() == before


def test_every_section_tests_against_the_reference_that_was_asked_for(folder):
    parts = dict.fromkeys(("leaderboard", "sampling", "outliers", "density", "completion"), "")
    text = render(read_run(folder), reference="simclr").text
    for name in parts:
        parts[name] = text.partition(f'<section id="{name}"')[2].partition("</section>")[0]
    assert [name for name, part in parts.items() if "★" in part or "◆" not in part] == []
    assert "against gmje" not in text


def test_mistakes_about_reports(folder, capsys):
    assert main(["report", str(folder) + "x"]) == 2
    assert str(folder) in capsys.readouterr().err.partition("did you mean")[2]
    assert main(["report", str(folder), "--reference", "simclear"]) == 2
    assert "simclr" in capsys.readouterr().err
    assert main(["report", str(folder), "--output", str(folder / "no" / "page.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
