"""Shared: one thread for torch, and a dataset small enough to be known by heart.

In the dataset a bright square in the top left is Cardiomegaly, one in the bottom right is Edema;
half the images are wide, so letterboxed. Whoever drew masks drew these squares.
"""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from chexseg_platform.artifacts import Artifact, Workspace
from chexseg_platform.data import masks
from chexseg_platform.data.geometry import Letterbox, letterbox
from chexseg_platform.data.rows import ImageRow, to_table
from chexseg_platform.data.store import Store, index_of, open_store
from chexseg_platform.findings import OBSERVATIONS
from hypothesis import settings

# Machines that run these tests may be slow or busy, so no example has a deadline.
settings.register_profile("unit", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("unit")

SIZE = 32
SQUARES = {"Cardiomegaly": (slice(2, 12), slice(4, 14)), "Edema": (slice(12, 22), slice(18, 30))}
COUNTS = {"train": 16, "valid": 8, "test": 4}

MakeDataset = Callable[..., Artifact]


READY = """
import sys
def ready():
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="session")
def together() -> Callable[..., list[str]]:
    """Run a script in several processes at once; it calls `ready()` before what is to race."""

    def run(script: str, count: int, *arguments: str) -> list[str]:
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", READY + textwrap.dedent(script), str(n), *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for n in range(count)
        ]  # fmt: skip
        try:
            for racer in racers:
                assert racer.stdout.readline() == "ready\n"
            for racer in racers:
                racer.stdin.write("go\n")
                racer.stdin.flush()
            outputs = [racer.communicate(timeout=300)[0] for racer in racers]
            assert [racer.returncode for racer in racers] == [0] * count
        finally:
            for racer in racers:
                racer.kill()
                racer.wait()
                racer.stdin.close()
                racer.stdout.close()
        return outputs

    return run


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def image_row(number: int, split: str, *, drawn: bool) -> ImageRow:
    """Image `number` of a split; its two squares follow the number's last two bits."""
    place = list(COUNTS).index(split)
    rng = np.random.default_rng([number, place])
    height = 32 if number % 4 < 2 else 24
    image = rng.integers(0, 60, (height, 32)).astype(np.uint8)
    there = [
        name for bit, name in enumerate(SQUARES) if (number >> bit) & 1 or number % 8 == 5 + bit
    ]
    counts = {}
    for name in there:
        image[SQUARES[name]] += 180
        mask = np.zeros(image.shape, bool)
        mask[SQUARES[name]] = True
        counts[name] = masks.encode(mask)
    labels: list[int | None] = [None] * len(OBSERVATIONS)
    for name in SQUARES:
        labels[OBSERVATIONS.index(name)] = int(name in there)
    patient = f"patient{place}{number:04d}"
    return ImageRow(
        image_id=f"{patient}_study1_view1_frontal", patient=patient, study="study1",
        view="frontal", projection=None, sex=None, age=None, split=split,
        source=f"{split}/{patient}/study1/view1_frontal.jpg", height=height, width=32,
        image=letterbox(image, Letterbox(height, 32, SIZE)).tobytes(),
        labels=tuple(labels), masks=counts if drawn else None,
    )  # fmt: skip


def dataset_of(folder: Path, rows: list[ImageRow], *, shards: int = 3) -> Artifact:
    """Write rows as the ingest stage does: as shards, each with its index."""
    draft = Workspace(folder).draft("dataset", f"{len(rows):016x}")
    tables = [to_table(rows[start::shards], SIZE) for start in range(shards)]
    parts = [draft.write(f"rows/{n:05d}.parquet", table) for n, table in enumerate(tables)]
    parts += [
        draft.write(f"index/{n:05d}.parquet", index_of(table, SIZE))
        for n, table in enumerate(tables)
    ]
    return draft.finish(parts, config={}, inputs={}, summary={"size": SIZE, "images": len(rows)})


@pytest.fixture(scope="session")
def make_row() -> Callable[..., ImageRow]:
    return image_row


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    return dataset_of


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """16 training images without masks, 8 validation and 4 test images with them."""
    rows = [
        image_row(number, split, drawn=split != "train")
        for split, count in COUNTS.items()
        for number in range(count)
    ]
    return dataset_of(tmp_path_factory.mktemp("workspace"), rows)


@pytest.fixture(scope="session")
def tiny_store(tiny_dataset: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tiny_dataset, tmp_path_factory.mktemp("cache"))
