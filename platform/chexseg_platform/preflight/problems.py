"""What a check found: problems in words, with all that they concern, however much that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chexseg_platform.storage import Storage

LISTED = 300
"""So many files and images are listed on a terminal; more go to a file."""
SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """Something wrong: `fatal` stops a run, the others are worth knowing.

    Attributes:
        items: the files, images or patients that it concerns, all of them.
        more: where the rest of the items is to be found, if not all are here.
    """

    what: str
    fatal: bool = True
    items: tuple[str, ...] = ()
    more: str = ""

    @property
    def text(self) -> str:
        """The problem and its items, a line each."""
        lines = [self.what, *self.items, *([self.more] if self.more else [])]
        return "\n    ".join(lines)


def shorten(problems: Sequence[Problem], storage: Storage, key: str) -> list[Problem]:
    """Return problems whose items fit a terminal; where they do not, all go to a file.

    Args:
        storage: where the file is written, under `key`.
    """
    if sum(len(problem.items) for problem in problems) <= LISTED:
        return list(problems)
    try:
        storage.write(key, (render(problems) + "\n").encode())
        where = f"all of them: {storage.uri}/{key}"
    except OSError:  # that the workspace cannot be written is a problem of its own
        where = "there is no place to list them"
    return [
        replace(p, items=p.items[:SHOWN], more=f"and {len(p.items) - SHOWN:,} more; {where}")
        if len(p.items) > SHOWN
        else p
        for p in problems
    ]


def render(problems: Sequence[Problem]) -> str:
    """Return the problems as a person reads them; one sentence where there is none."""
    if not problems:
        return "Nothing wrong was found."
    order = sorted(problems, key=lambda problem: not problem.fatal)
    return "\n".join(f"{'error ' if p.fatal else 'note  '} {p.text}" for p in order)
