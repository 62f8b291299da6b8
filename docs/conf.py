"Settings of the site; `scripts/build_site.py` lays out its pages and calls Sphinx with them."

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

settings = ConfigParser(delimiters=["="])
settings.read(Path(__file__).resolve().parents[1] / "settings.ini", encoding="utf-8")
project = settings["DEFAULT"]["title"]
author = settings["DEFAULT"]["author"]
project_copyright = settings["DEFAULT"]["copyright"]
version = release = settings["DEFAULT"]["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
]
nb_execution_mode = "off"       # the outputs are those that the notebooks hold
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
autosummary_generate = False
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
default_role = "code"           # docstrings write `x` for code
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": True,
    "show_toc_level": 2,
    "collapse_navigation": True,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_end": [],
}
templates_path = []

SPAN = re.compile(r"(`[^`]*`)")
MARKUP = re.compile(r"([*|\\])|(?<=\w)(_)(?!\w)")


def plain_text(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    "A docstring is plain text with `code`: other characters of reStructuredText stand for themselves."
    for number, line in enumerate(lines):
        parts = SPAN.split(line)
        parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def is_field(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    "Fields of a config stand in its table of attributes; only its methods get an entry."
    return True if what == "class" and not callable(thing) and not isinstance(thing, property) else None


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", plain_text, priority=100)
    app.connect("autodoc-skip-member", is_field)
