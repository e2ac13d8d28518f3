"""What a class's file is called: its name, made safe for any file system.

A structure is called as its folder was, so a name may hold what no file should: "/", "..", or
nothing but signs. Letters, marks and digits of any script stay, and a few signs; everything else,
spaces among it, becomes "_". Names that would then be one, also where case does not count, get a
number.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

KEPT = frozenset("-_.,+()")
LONGEST = 160
"""Bytes of a name before a number and its suffix: a file's name may have 255."""


def mask_files(classes: Sequence[str]) -> dict[str, str]:
    """Return class -> name of its file: "Pleural Effusion" -> "Pleural_Effusion.png"."""
    files, taken = dict[str, str](), set[str]()
    for name in classes:
        stem = unique = clean(name)
        number = 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{stem}_{number}"
        taken.add(unique.casefold())
        files[name] = f"{unique}.png"
    return files


def renamed(classes: Sequence[str]) -> dict[str, str]:
    """Return those files whose names differ from their class's by more than "_" for a space."""
    files = mask_files(classes)
    return {name: files[name] for name in classes if files[name] != f"{name.replace(' ', '_')}.png"}


def clean(name: str) -> str:
    """Return a file's name, without a suffix, that stays in its folder and is not hidden."""
    plain = unicodedata.normalize("NFC", name)
    safe = "".join(sign if _safe(sign) else "_" for sign in plain)
    visible = safe.lstrip(".")
    whole = "_" * (len(safe) - len(visible)) + visible
    return whole.encode()[:LONGEST].decode(errors="ignore")


def _safe(sign: str) -> bool:
    return sign in KEPT or unicodedata.category(sign)[0] in "LMN"
