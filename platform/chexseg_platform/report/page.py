"""The page: sections in, one HTML file out, which loads nothing and runs one small script.

Its Content-Security-Policy says so to the browser as well: pictures within the page, styles within
the page, and the one script whose digest it names. All text goes through Jinja's escaping; what is
inserted as it is are pictures that the platform drew, and the two files beside the templates.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from chexseg_platform import __version__
from chexseg_platform.evaluation.tables import NOTHING
from chexseg_platform.report.finetuning import Grid
from chexseg_platform.report.numbers import Cell
from chexseg_platform.report.section import Section
from chexseg_platform.storage import write_local

TEMPLATES = Path(__file__).parent / "templates"

Shown = Section | Grid


class NotWritable(ValueError):
    """The page cannot be written where it was asked for."""


@dataclass(frozen=True)
class Side:
    """A headline figure of every run, side by side; `title` where a new one begins."""

    title: str
    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Group:
    """Sections of one kind, side by side."""

    sections: Sequence[Shown]
    rows: list[Side]


def render(sections: Sequence[Shown], *, untracked: str = "") -> str:
    """Return the page.

    Args:
        untracked: why runs are not linked, where they are not.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("page.html.j2").render(
        title=f"Report: {', '.join(section.name for section in sections)}",
        sections=sections,
        sides=side_by_side(sections),
        untracked=untracked,
        version=__version__,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        digest=digest,
    )


def side_by_side(sections: Sequence[Shown]) -> list[Group]:
    """Return the headline figures of sections of a kind, of each kind that has several."""
    kinds = dict.fromkeys(section.template for section in sections)
    groups = [[s for s in sections if s.template == kind] for kind in kinds]
    return [Group(group, _sides(group)) for group in groups if len(group) > 1]


def _sides(sections: Sequence[Shown]) -> list[Side]:
    """Every headline figure that a section has, a cell a section."""
    figures = [
        {
            (card.title, label): found
            for card in section.cards
            for label, found in card.figures.items()
        }
        for section in sections
    ]
    keys = list(dict.fromkeys(key for known in figures for key in known))
    titles = [title for title, _ in keys]
    keys.sort(key=lambda key: titles.index(key[0]))
    return [
        Side(title, label, [known.get((title, label), Cell(NOTHING)) for known in figures])
        for title, label in keys
    ]


def check(out: Path) -> None:
    """Say before any work whether a page can have this name.

    Raises:
        NotWritable: if its folder is not there, or a folder has its name.
    """
    if out.is_dir():
        raise NotWritable(
            f"{out} is a folder: give the page a name, as in -o {out / 'report.html'}"
        )
    if not out.parent.is_dir():
        raise NotWritable(f"the folder {out.parent} is not there: make it, or choose another -o")


def write(page: str, out: Path) -> None:
    """Write a page whole or not at all; one that is there is replaced."""
    check(out)
    write_local(out, page.encode())
