"""Sphinx's configuration. ``nox -s docs`` builds the site; a warning is an error."""

import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "gmje"
author = "The gmje authors"
copyright = "The gmje authors"
release = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "cross_references",
    "offline_math",
]
root_doc = "index"
nitpicky = True
nitpick_ignore_regex = [("py:class", r".*\.(R|Made|Parsed|ResultsModel)")]  # type variables, and a private base
exclude_patterns = ["**/.ipynb_checkpoints"]

myst_enable_extensions = ["dollarmath", "attrs_inline", "colon_fence"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
# Notebooks run once for every state of their code; without a place for what they give they are not run.
nb_render_markdown_format = "gfm"  # tables in what a cell shows
nb_execution_cache_path = os.environ.get("NOTEBOOK_CACHE", "")
nb_execution_mode = "cache" if nb_execution_cache_path else "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

#: Variables of the theme that get the blue of the figures.
BRANDED = ("color-brand-primary", "color-brand-content", "color-api-name", "color-api-pre-name")
html_theme = "furo"
html_title = "gmje"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": dict.fromkeys(BRANDED, "#0072B2"),
    "dark_css_variables": dict.fromkeys(BRANDED, "#56B4E9"),
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
