"""Organ phantoms on disk, in the layouts of the collections with mask files.

The same reader reads them and the real ones. JSRT's files have a size of their own: a phantom of
`size` pixels is enlarged to 2048, and its masks to 1024, 8 MB an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...findings import INFECTION, LEFT_LUNG, LUNGS, ORGANS, RIGHT_LUNG
from ..decode import JSRT_LEVELS, JSRT_SIDE
from .layout import PhantomRefused
from .organs import Chest, draw_chest
from .render import to_bytes, to_twelve_bits
from .studies import SPLITS

Layout = Literal["jsrt", "covid-qu-ex", "montgomery", "shenzhen", "folder"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

JSRT_NODULES, SCR_SIDE = 154, 1024
JSRT_FOLDS = (124, 123)
COVID_SPLITS = {"train": "Train", "valid": "Val", "test": "Test"}
COVID_GROUPS = {"infected": "COVID-19", "pneumonia": "Non-COVID", "normal": "Normal"}
COVID_NAMES = {"infected": "covid_{}", "pneumonia": "non_COVID ({})", "normal": "Normal ({})"}
TREE = "Infection Segmentation Data"


@dataclass(frozen=True)
class ChestJob:
    """One chest to draw: the `number`-th (from 0) of a split."""

    layout: str
    split: str
    number: int
    views: int = 1


def check_numbers(layout: str, counts: dict[str, int]) -> None:
    """Raise PhantomRefused where a layout has no numbers for so many images."""
    learned, tested = counts["train"] + counts["valid"], counts["test"]
    if layout == "jsrt" and (learned > JSRT_FOLDS[0] or tested > JSRT_FOLDS[1]):
        raise PhantomRefused(
            f"JSRT has {JSRT_FOLDS[0]} images to learn from and {JSRT_FOLDS[1]} to test on: "
            "ask for fewer, or take the layout `folder`."
        )


def write_chest(root: Path, job: ChestJob, *, counts: dict[str, int], size: int, seed: int) -> str:
    """Draw a chest and write its image and masks; return its name."""
    group = _group(job)
    # As many as there are, whatever the layout: the same chest lies in each of them.
    rng = np.random.default_rng([seed, 7001, SPLITS.index(job.split), job.number])
    chest, name = draw_chest(rng, group, size), _name(job, group, counts)
    for path, pixels in _files(root, job, name, group, chest):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".IMG":
            path.write_bytes(pixels.astype(">u2").tobytes())
        else:
            Image.fromarray(pixels).save(path)
    return name


def _group(job: ChestJob) -> str:
    """Return what a chest shows: COVID-QU-Ex's infection subset is half COVID, a quarter each."""
    if job.layout == "jsrt":
        return "nodule" if job.number % 8 < 5 else "normal"
    if job.layout in ("montgomery", "shenzhen"):
        return "tuberculosis" if job.number % 2 else "normal"
    return ("infected", "pneumonia", "infected", "normal")[job.number % 4]


def _name(job: ChestJob, group: str, counts: dict[str, int]) -> str:
    before = {"train": 0, "valid": counts["train"], "test": counts["train"] + counts["valid"]}
    number = before[job.split] + job.number + 1
    if job.layout == "jsrt":
        place = job.number + (counts["train"] if job.split == "valid" else 0)
        number = 2 * place + (2 if job.split == "test" else 1)
        nodule = number <= JSRT_NODULES
        return f"JPCLN{number:03d}" if nodule else f"JPCNN{number - JSRT_NODULES:03d}"
    if job.layout == "covid-qu-ex":
        return COVID_NAMES[group].format(number)
    if job.layout == "montgomery":
        return f"MCUCXR_{number:04d}_{int(group != 'normal')}"
    if job.layout == "shenzhen":
        return f"CHNCXR_{number:04d}_{int(group != 'normal')}"
    return f"chest{number:05d}"


def _files(
    root: Path, job: ChestJob, name: str, group: str, chest: Chest
) -> Iterator[tuple[Path, NDArray[np.uint8] | NDArray[np.uint16]]]:
    """Yield a chest's files: path and pixels."""
    masks = {structure: _black_and_white(mask) for structure, mask in chest.masks.items()}
    lungs = np.maximum(masks[LEFT_LUNG], masks[RIGHT_LUNG])
    image = to_bytes(chest.image)
    if job.layout == "jsrt":
        fold = root / "scratch" / ("fold2" if job.split == "test" else "fold1") / "masks"
        film = _enlarged(JSRT_LEVELS - 1 - to_twelve_bits(chest.detector), JSRT_SIDE)
        yield root / "All247images" / f"{name}.IMG", film
        for organ in ORGANS:
            yield fold / organ.lower() / f"{name}.gif", _enlarged(masks[organ], SCR_SIDE)
    elif job.layout == "covid-qu-ex":
        # Doubled, as the download is.
        base = root / TREE / TREE / COVID_SPLITS[job.split] / COVID_GROUPS[group]
        yield base / "images" / f"{name}.png", image
        yield base / "lung masks" / f"{name}.png", lungs
        yield base / "infection masks" / f"{name}.png", masks[INFECTION]
    elif job.layout == "montgomery":
        base = root / "MontgomerySet"
        yield base / "CXR_png" / f"{name}.png", image
        yield base / "ManualMask" / "leftMask" / f"{name}.png", masks[LEFT_LUNG]
        yield base / "ManualMask" / "rightMask" / f"{name}.png", masks[RIGHT_LUNG]
    elif job.layout == "shenzhen":
        base = root / "ChinaSet_AllFiles"
        yield base / "CXR_png" / f"{name}.png", image
        yield base / "mask" / f"{name}_mask.png", lungs
    else:
        base = root / job.split
        yield base / "images" / f"{name}.png", image
        for structure, mask in masks.items():
            yield base / "masks" / structure / f"{name}.png", mask
        yield base / "masks" / LUNGS / f"{name}.png", lungs


def _black_and_white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return mask.astype(np.uint8) * np.uint8(255)


def _enlarged(pixels: NDArray, side: int) -> NDArray:
    """Return square pixels at another size, nearest neighbour: no value is made up."""
    places = np.arange(side) * len(pixels) // side
    return pixels[np.ix_(places, places)]
