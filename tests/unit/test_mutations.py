"""Damaged files of every format that is read: taken, or refused in a sentence, and nothing else.

A thousand of them, each made from its number alone, so that a failure can be made again.
"""

import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from chexseg_platform.artifacts import CorruptArtifact, Workspace
from chexseg_platform.config import ConfigError
from chexseg_platform.configfile import load
from chexseg_platform.data.chexlocalize import BrokenAnnotations, read_masks
from chexseg_platform.data.chexpert import read_chexpert
from chexseg_platform.data.decode import UnreadableInput, read_grey, read_size
from chexseg_platform.data.entries import BrokenTable
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.models import checkpoints
from PIL import Image

CASES = 125
SECONDS = 20
"""Far more than any of them takes: what is still running then hangs."""


class Format(NamedTuple):
    """A whole file, what reads it, and how it refuses.

    Attributes:
        use: reads `file`, a damaged copy in the whole one's place.
    """

    file: Path
    use: Callable[[Path], Any]
    refuses: type[Exception]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "data"
    write_phantom(root, train=90, valid=6, test=2, size=32, seed=1, workers=1)
    return root


def jpeg(layout: Path, folder: Path) -> Format:
    return Format(next(layout.rglob("*.jpg")), read_picture, UnreadableInput)


def png(layout: Path, folder: Path) -> Format:
    file = folder / "whole.png"
    Image.open(next(layout.rglob("*.jpg"))).save(file)
    return Format(file, read_picture, UnreadableInput)


def dicom(layout: Path, folder: Path) -> Format:
    return Format(next(layout.rglob("*.dcm")), read_picture, UnreadableInput)


def csv(layout: Path, folder: Path) -> Format:
    file = next(layout.rglob("valid.csv"))

    def use(damaged: Path) -> Any:
        return read_chexpert(layout, damaged, "valid")

    return Format(file, use, BrokenTable)


def json(layout: Path, folder: Path) -> Format:
    file = next(layout.rglob("gt_segmentations_val.json"))
    return Format(file, read_masks, BrokenAnnotations)


def yaml(layout: Path, folder: Path) -> Format:
    file = Path(__file__).parents[2] / "experiments/doll-phantom.yaml"
    return Format(file, load, ConfigError)


def parquet(layout: Path, folder: Path) -> Format:
    return _part(folder, "table")


def manifest(layout: Path, folder: Path) -> Format:
    return _part(folder, "manifest")


def safetensors(layout: Path, folder: Path) -> Format:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    checkpoints.save(folder / "model", model.state_dict(), {"kind": "test"})
    file = next((folder / "model").glob("*.safetensors"))
    return Format(
        file,
        _in_place(file, lambda: checkpoints.load(folder / "model")),
        checkpoints.CorruptCheckpoint,
    )


def _part(folder: Path, which: str) -> Format:
    """A part of a finished artifact, or its manifest."""
    import pyarrow as pa

    workspace = Workspace(folder / "workspace")
    draft = workspace.draft("dataset", "0" * 16)
    part = draft.write("rows.parquet", pa.table({"image_id": ["a", "b"], "value": [1.0, 2.0]}))
    draft.finish([part], config={}, inputs={}, summary={"images": 2})
    place = Path(draft.storage.base)
    file = place / part.key if which == "table" else place / "artifact.json"

    def read() -> Any:
        found = workspace.find("dataset", "0" * 16)
        return None if found is None else (found.summary, found.table("rows.parquet"))

    return Format(file, _in_place(file, read), CorruptArtifact)


def _in_place(file: Path, read: Callable[[], Any]) -> Callable[[Path], Any]:
    whole = file.read_bytes()

    def use(damaged: Path) -> Any:
        file.write_bytes(damaged.read_bytes())
        try:
            return read()
        finally:
            file.write_bytes(whole)

    return use


def read_picture(file: Path) -> Any:
    read_size(file)
    image = read_grey(file)
    assert image.dtype == np.uint8
    assert image.ndim == 2
    return image


FORMATS = (jpeg, png, dicom, csv, json, yaml, parquet, manifest, safetensors)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Damage a file in one to four places."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(made) + 1)
        span = chance.choice((1, 1, 1, 2, 4, 64))
        some = bytes(chance.randrange(256) for _ in range(span))
        way = chance.randrange(8)
        if way == 0:
            del made[place:]
        elif way == 1:
            del made[place : place + span]
        elif way == 2:
            made[place:place] = some
        elif way == 3:
            made[place : place + span] = some
        elif way == 4:
            made[place:place] = made[place : place + span]
        elif way == 5:
            made[place : place + span] = chance.choice((b"\0", b"\xff")) * span
        elif way == 6:
            made[place:place] = chance.choice(WORDS)
        elif made:
            made[place % len(made)] ^= 1 << chance.randrange(8)
    return bytes(made)


WORDS = (
    b'"', b"'", b",", b"\n", b"\r", b"{", b"}", b"[" * 40, b": ", b"- ", b"&a *a", b"<<: *a",
    b"!!python/name:os", b"\t", b"nan", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 40, b"../",
    b"/etc/passwd", b"null", b"=cmd|' /C calc'!A0", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"no",
    b"12:30:45", b"\0",
)  # fmt: skip


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def hangs(*_: Any) -> None:
        raise AssertionError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_a_damaged_file_is_taken_or_refused_in_a_sentence(
    make: Callable[[Path, Path], Format], layout: Path, tmp_path: Path
) -> None:
    whole = make(layout, tmp_path)
    data = whole.file.read_bytes()
    place = tmp_path / f"damaged{whole.file.suffix}"
    place.write_bytes(data)
    whole.use(place)  # as it is, it is taken
    faults, refused = [], 0
    for case in range(CASES):
        place.write_bytes(damaged(data, random.Random(f"{make.__name__} {case}")))
        try:
            with at_most(SECONDS):
                whole.use(place)
        except whole.refuses as error:
            refused += 1
            if not str(error).strip() or "Traceback" in str(error):
                faults.append(f"case {case}: says nothing: {error!r}")
        except Exception as error:
            faults.append(f"case {case}: {type(error).__name__}: {error}")
    assert not faults, "\n".join(faults)
    assert refused, "nothing was damaged so that it showed"
    print(f"{make.__name__}: {refused} of {CASES} refused", file=sys.stderr)
