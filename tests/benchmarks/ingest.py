"""The whole ingest on Ray Data, files on disk to a dataset artifact, beside a bare loop.

The bare loop only decodes and letterboxes, in one process; its rate counts once a core. Ray is up
and its workers have run before, so that its start-up is left out. Few images are many inputs
through links: a stage's fixed costs should weigh as little as in a real run.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from chexseg_platform import config
from chexseg_platform.data.entries import Entry
from chexseg_platform.data.rows import make_row
from chexseg_platform.data.sources import read_entries
from chexseg_platform.stages.ingest import ingest

from tests.benchmarks.harness import Row, compare, cores, rate_of
from tests.benchmarks.material import REAL, Place, repeated

SIZE = 320
PHANTOMS, PHANTOM_SIDE, PHANTOM_COPIES = 250, 384, 24
REAL_COPIES = 8
PEER = "decode + letterbox, one process x {} cores"


def run(place: Place) -> list[Row]:
    """Ingest phantoms near the size of CheXpert-small's images and, where present, real X-rays."""
    drawn = place.phantom(PHANTOMS, PHANTOM_SIDE) / "CheXpert-v1.0"
    rows = [_compared(place, "ingest, phantoms", drawn, PHANTOM_COPIES)]
    if REAL.is_dir():
        rows.append(_compared(place, "ingest, real X-rays", REAL, REAL_COPIES))
    else:
        print("The real X-rays are not there: only phantoms are ingested.")
    return rows


def _compared(place: Place, name: str, root: Path, copies: int) -> Row:
    path = repeated(root, place.folder / name.replace(" ", "-").replace(",", ""), copies)
    data = config.Data(tables=[config.Table(table=str(path), split="train")], size=SIZE)
    entries = read_entries(data).entries
    once = entries[: len(entries) // copies]
    return compare(
        name,
        "images/s",
        _stage(place, name, data, len(entries)),
        lambda: rate_of(len(once), lambda: _bare(once)) * cores(),
        PEER.format(cores()),
        aim=0.8,
        repetitions=3,
    )


def _stage(place: Place, name: str, data: config.Data, images: int) -> Callable[[], float]:
    numbers = count()

    def once() -> float:
        context = place.context(f"{name}-{next(numbers)}".replace(" ", "-").replace(",", ""))
        context.connect()
        return rate_of(images, lambda: ingest(context, data))

    return once


def _bare(entries: list[Entry]) -> None:
    for entry in entries:
        make_row(entry, SIZE)
