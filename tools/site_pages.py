"""What the site has beside docs/: README, CONTRIBUTING and CHANGELOG, and examples as code.

mkdocs calls it (`hooks` and `extensions` in mkdocs.yml). On a site there is no source tree to link
into, so a link to a file of the repository becomes its path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie above docs/."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for other, place in PAGES.items():
            text = text.replace(f"]({other}", f"]({place}")
        text = re.sub(r"\]\((?!https:|docs/|#)(?!\w+\.md)([^)]+)\)", r"](../\1)", text)
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to files of the repository into their paths; pictures stay."""
    for name, page in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return re.sub(r"(?<!!)\[[^]]*\]\(\.\./([^)]+)\)", r"`\1`", markdown)


class Doctests(griffe.Extension):
    """Docstrings' examples as code: to Markdown `>>>` is a quotation."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence each example of a docstring, up to the empty line after it."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"(?m)^>>> (?:.+\n?)+", r"```pycon\n\g<0>\n```\n", text)
