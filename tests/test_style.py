"""Phrases that the documentation, docstrings and messages do not use, each with the one to write."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = sorted((ROOT / "featcache").rglob("*.py"))
INSTEAD = {
    "anew": "again, or new",
    "is no valid": "is not a valid",
    "are no valid": "are not valid",
    "is all one": "makes no difference",
    "quicker": "faster",
    "allows to": "lets you",
    "informations": "information",
    "so-called": "leave it out",
}


def phrases(text: str) -> list[str]:
    """The phrases that a text uses and should not, also across lines."""
    spaced = " ".join(text.split())
    return [phrase for phrase in INSTEAD if re.search(rf"\b{phrase}\b", spaced, re.IGNORECASE)]


def words(path: Path) -> list[tuple[int, str]]:
    """A page as one text, or all texts in a file of code with their lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [(1, text)]
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    return [(node.lineno, node.value) for node in nodes if isinstance(node.value, str)]


@pytest.mark.parametrize("text", ["Train it anew.", "It is\n    no valid name.", "Quicker than before."])
def test_a_phrase_is_found_in_a_sentence_and_across_lines(text: str) -> None:
    assert len(phrases(text)) == 1


def test_neither_pages_nor_docstrings_nor_messages_use_these_phrases() -> None:
    assert len(CODE) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}: {phrase!r}: {INSTEAD[phrase]}"
        for path in (*PAGES, *CODE)
        for line, text in words(path)
        for phrase in phrases(text)
    ]
    assert found == []
