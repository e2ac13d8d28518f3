"""The folder that predictions go to, and how files appear in it: whole, and never mixed.

`about.json` says which segmenter made them and whether all of them are there. It is written first,
so that a run that was cut off can be told from somebody else's files, and again at the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ABOUT = "about.json"
MASKS, OVERLAYS, SEGS = "masks", "overlays", "dicom-seg"
CHEXLOCALIZE, COCO, TABLE, FAILED = (
    "predictions.json",
    "coco.json",
    "predictions.csv",
    "failed.csv",
)
OURS = (MASKS, OVERLAYS, SEGS, CHEXLOCALIZE, COCO, TABLE, FAILED, ABOUT)
"""All that predictions consist of: nothing else in a folder is ever removed."""


class OccupiedOutput(ValueError):
    """A folder that predictions cannot go to."""


def prepare(out: Path, *, overwrite: bool) -> None:
    """Make the folder, or clear it of earlier predictions.

    Raises:
        OccupiedOutput: it is a file, or holds anything that is not to be overwritten.
    """
    check_free(out, overwrite=overwrite)
    if overwrite:
        for name in OURS:
            for path in (out / name, *out.glob(f".*.{name}")):  # also what was cut off
                _remove(path)
    out.mkdir(parents=True, exist_ok=True)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise OccupiedOutput where `prepare` would; change nothing."""
    if len(out.parts) > 1 and out.parts[0].endswith(":") and len(out.parts[0]) > 2:
        raise OccupiedOutput(f"Predictions go to a folder of this machine, which {out} is not.")
    if out.exists() and not out.is_dir():
        raise OccupiedOutput(f"{out} is a file: name a folder for the predictions.")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / ABOUT).is_file():
        raise OccupiedOutput(
            f"{out} holds other files (it has no {ABOUT} of earlier predictions), and nothing "
            "there is touched: name a new folder."
        )
    if not overwrite:
        raise OccupiedOutput(
            f"{out} holds predictions already: name another folder, or replace them with "
            "--overwrite."
        )


def say_about(out: Path, about: Mapping[str, Any], *, finished: bool) -> None:
    """Write `about.json`."""
    with published(out / ABOUT) as partial:
        text = json.dumps({**about, "finished": finished}, indent=1)
        partial.write_text(text + "\n", encoding="utf-8")


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Give a name to write under; the file takes its own once that has gone well."""
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
