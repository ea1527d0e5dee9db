"""The documents of the project, and the code that they show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree

PROJECT = Path(__file__).resolve().parents[1]
README = PROJECT / "README.rst"
DOCS = PROJECT / "docs"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Block:
    """A literal block of a document.

    :ivar language: that of ``code-block::``; empty for other literal blocks.
    :ivar section: the titles of the sections around it, the innermost one last.
    """

    language: str
    section: tuple[str, ...]
    text: str


@cache
def parse(path: Path) -> nodes.document:
    """Parse a document as plain docutils does; the same one is returned each time.

    :raises docutils.utils.SystemMessage: at a warning or an error.
    """
    settings = {
        "halt_level": 2,
        "report_level": 2,
        "file_insertion_enabled": False,
        "warning_stream": "",
    }
    return publish_doctree(read(path), source_path=str(path), settings_overrides=settings)


def blocks(path: Path) -> Iterator[Block]:
    """The literal blocks of a document, each with a line end."""
    for node in parse(path).findall(nodes.literal_block):
        _, *language = node["classes"] or [""]
        titles: list[str] = []
        above = node.parent
        while above is not None:
            if isinstance(above, nodes.section):
                titles.insert(0, above.children[0].astext())
            above = above.parent
        yield Block(" ".join(language), tuple(titles), node.astext() + "\n")


def block(path: Path, language: str, section: str) -> str:
    """The text of the first block in this language of a section."""
    return next(
        each.text
        for each in blocks(path)
        if each.language == language and each.section and each.section[-1] == section
    )
