"""MathJax beside the pages, so that formulas need no network.

The package ``sphinx-mathjax-offline`` holds the files. It is not used as an extension, because it would copy all 24 MB
of them, speech in a dozen languages included, and keep Sphinx from working in parallel.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SCRIPT = "tex-chtml.js"
#: What the script may load: fonts, and the packages of TeX that are not in it.
PARTS = ("output/chtml/fonts/woff-v2", "input/tex/extensions")


def copy_files(app: Sphinx, error: Exception | None) -> None:
    """Copy the script and its parts."""
    package = find_spec("sphinx-mathjax-offline")
    if error or package is None or package.origin is None:
        return
    source, target = Path(package.origin).parent / "static" / "mathjax", Path(app.outdir) / "_static" / "mathjax"
    for part in PARTS:
        shutil.copytree(source / part, target / part, dirs_exist_ok=True)
    shutil.copyfile(source / SCRIPT, target / SCRIPT)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    if find_spec("sphinx-mathjax-offline") is None:
        raise ImportError("the files of MathJax are missing: install sphinx-mathjax-offline")
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    # The menu and its speech are not copied.
    app.config.mathjax3_config = {"options": {"enableMenu": False}}
    app.connect("build-finished", copy_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
