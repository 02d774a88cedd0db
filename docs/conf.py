"""How `make docs` makes a site of these pages, the README and the docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

project, author = "raydrop", "The raydrop authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "raydrop"
html_copy_source = False
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

_DOCS = Path(__file__).parent
_OUTWARD = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)")


def _read(_: Any, page: str, source: list[str]) -> None:
    """Begin with the README, and name what lies beside docs/ instead of linking to it."""
    if page == "index":
        readme = (_DOCS.parent / "README.md").read_text()
        readme = re.sub(r"\]\((?!https?:|#|docs/)([^)]+)\)", r"](../\1)", readme)
        source[0] = readme.replace("](docs/", "](") + source[0]

    def name(link: re.Match[str]) -> str:
        if not (_DOCS.parent / link[2]).exists():
            raise FileNotFoundError(f"{link[2]}, which {page} links to")
        return link[1] if "`" in link[1] else f"{link[1]} (`{link[2]}`)"

    source[0] = _OUTWARD.sub(name, source[0])


def setup(app: Any) -> None:
    """Have Sphinx call what reads pages."""
    app.connect("source-read", _read)
