"""What all reports share: JSON without a figure that is none, and text that stays text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.pages import escape, template, to_json


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"a": {"b": [1.0, float("nan")]}}, r"a\.b\[1\] is nan"),
        ({"configuration": {"rate": float("inf")}}, r"configuration\.rate is inf"),
        ({"a": ({"b": float("-inf")},)}, r"a\[0\]\.b is -inf"),
    ],
)
def test_a_figure_that_is_none_is_refused_by_its_key(document: dict[str, Any], key: str) -> None:
    """Wherever it stands: it would be null, or no JSON."""
    with pytest.raises(MgvrError, match=f"test report key {key}: leave out"):
        to_json(document, "test report")


def test_what_is_whole_comes_back() -> None:
    document = {"a": {"ü": [0.1, 1, None, True]}, "b": "text"}
    assert json.loads(to_json(document, "test report")) == document


def test_text_is_one_line_without_markup() -> None:
    assert escape("a | <b>\n*c*") == r"a \| &lt;b&gt; \*c\*"


@pytest.mark.parametrize(("name", "escapes"), [("report.html.j2", True), ("report.md.j2", False)])
def test_html_is_escaped_as_a_whole(name: str, escapes: bool) -> None:
    assert template(name).environment.autoescape is escapes
