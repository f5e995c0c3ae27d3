"""Written reports as the tests read them: HTML by its tags and text, and text from outside that must stay text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

EVIL = """<script>alert("x")</script> & 'quoted' | `code` [a](b) *bold*"""


def read(files: Mapping[str, Path]) -> dict[str, str]:
    """The text of each file that was written."""
    return {name: path.read_text(encoding="utf-8") for name, path in files.items()}


class Page(HTMLParser):
    """The tags, attributes and text of a page; `open` is empty where every tag was closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):  # those of ours that HTML never closes
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def require_text_on_page(html: str) -> None:
    """That EVIL, in every place of a report that something from outside can reach, is text."""
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 15
    assert page.open == []


def require_text_in_markdown(markdown: str) -> str:
    """That EVIL and "# heading" on a line of its own are text; what stands before the code at the page's end."""
    prose = markdown.split("## How it was made")[0]
    assert "<script" not in prose
    assert not re.search(r"(?<!\\)`", prose)
    assert "](b)" not in prose.replace("\\]", "")
    assert "\n# heading" not in markdown
    return prose
