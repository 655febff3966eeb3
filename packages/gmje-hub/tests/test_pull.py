"""Repositories that are pulled into a folder: whole or not at all, and nothing hostile."""

import pytest

pytestmark = pytest.mark.xdist_group("hub")


def test_hostile_documents_are_not_pulled(hub, client, models, tmp_path):
    files = {path.name: path.read_bytes() for path in models["one"][0].iterdir()}
    hub.add("org/odd", {**files, ".eval_results/../../out.yaml": b"[]"})
    answer = client("cli", "pull", "org/odd", str(tmp_path / "odd"))
    assert answer["status"] == 2
    assert "leads out of its folder" in answer["err"]
    hub.add("org/large", {**files, "README.md": b" " * (2**22 + 1)})
    answer = client("cli", "pull", "org/large", str(tmp_path / "large"))
    assert answer["status"] == 2
    assert "at most 4194304" in answer["err"]
    assert list(tmp_path.iterdir()) == []
