"""Methods of one's own: from a file, from an installed package, and what is wrong with them."""

from importlib import metadata
from pathlib import Path

import pytest

from gmje_bench.cli import main
from gmje_bench.errors import OptionError
from gmje_bench.methods import METHODS, Setting, build_objective
from gmje_bench.methods.plugins import register_entry_points, register_file
from gmje_bench.runs import read_results

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "align_uniform.py"


@pytest.fixture(autouse=True)
def registry():
    """A registry that forgets."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def test_the_example_of_the_documentation_runs(tmp_path, capsys):
    folder = tmp_path / "run"
    command = ["run", "--suite", "smoke", "--limit", "300", "--method-file", str(EXAMPLE)]
    assert main([*command, "--methods", "align_uniform", "--output", str(folder)]) == 0
    results = read_results(folder)
    assert [(r.method, r.status, r.verdict) for r in results.records] == [("align_uniform", "ok", "healthy")]
    assert results.sources["align_uniform"].startswith("sha256:")
    copy = tmp_path / "align_uniform.py"
    copy.write_text(EXAMPLE.read_text() + "\n# changed\n")
    METHODS.pop("align_uniform")
    again = ["run", "--suite", "smoke", "--limit", "300", "--method-file", str(copy)]
    assert main([*again, "--methods", "align_uniform", "--output", str(folder), "--resume"]) == 2
    assert "source of methods and tasks" in capsys.readouterr().err, "another program is another method"


def file(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return path


GOOD = '''"""Nothing much."""
from gmje_bench.methods import Objective
import torch
class Nothing(torch.nn.Module):
    def forward(self, z_context, z_target):
        return (z_context - z_target).square().mean()
def options():
    return {"weight": 1.0, "kind": "soft", "both": True}
def build(setting, weight, kind, both):
    assert (setting.dim, setting.classes) == (8, 10) and isinstance(kind, str)
    return Objective(Nothing())
'''


def test_a_file_is_a_method_of_its_stem(tmp_path):
    method = register_file(file(tmp_path, GOOD))
    assert (method.name, method.summary) == ("mine", "Nothing much")
    assert build_objective("mine", Setting(8, 10), {"weight": 2, "kind": "hard"}).normalize
    assert register_file(tmp_path / "mine.py") is method, "twice is once"


@pytest.mark.parametrize(("options", "words"), [
    ({"wieght": 1.0}, "no option 'wieght'; did you mean weight"),
    ({"weight": "much"}, "weight must be such as 1.0, got 'much'"),
    ({"both": 1}, "both must be such as True, got 1"),
    ({"kind": 3}, "kind must be such as 'soft', got 3"),
])  # fmt: skip
def test_its_options_are_checked(options, words, tmp_path):
    register_file(file(tmp_path, GOOD))
    with pytest.raises(OptionError, match=words):
        build_objective("mine", Setting(8, 10), options)


@pytest.mark.parametrize(("text", "name", "words"), [
    ("x = 1", "mine.py", "has no function 'options'"),
    ("def options(): return {}", "mine.py", "has no function 'build'"),
    ("1 / 0", "mine.py", "cannot be imported: ZeroDivisionError"),
    ("def", "mine.py", "cannot be imported: SyntaxError"),
    (GOOD, "simclr.py", "rename the file"),
    (GOOD, "mine.txt", "must end in .py"),
])  # fmt: skip
def test_files_that_are_no_methods(text, name, words, tmp_path, capsys):
    path = file(tmp_path, text, name)
    with pytest.raises(OptionError, match=words):
        register_file(path)
    assert main(["run", "--method-file", str(path), "--dry-run"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_missing_file(tmp_path):
    with pytest.raises(OptionError, match="cannot read the method file"):
        register_file(tmp_path / "none.py")


def test_build_must_give_an_objective(tmp_path):
    register_file(file(tmp_path, "def options(): return {}\ndef build(setting): return 3\n"))
    with pytest.raises(OptionError, match="must return an Objective, got int"):
        build_objective("mine", Setting(8, 10), {})


def test_entry_points_are_methods(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(file(tmp_path, GOOD, "their_module.py").parent)
    entries = [metadata.EntryPoint("theirs", "their_module", "gmje_bench.methods")]
    entries += [metadata.EntryPoint("broken", "no_such_module", "gmje_bench.methods")]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries if group == "gmje_bench.methods" else [])
    register_entry_points()
    assert METHODS["theirs"].summary == "of the package their_module"
    build_objective("theirs", Setting(8, 10), {})
    with pytest.raises(OptionError, match="method broken: no_such_module cannot be imported: ModuleNotFoundError"):
        build_objective("broken", Setting(8, 10), {})
