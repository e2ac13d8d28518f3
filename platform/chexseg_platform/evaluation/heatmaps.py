"""Heat maps from files: CheXlocalize's pickles and NumPy arrays, one of an image and a finding.

A file is named `<image id>_<finding>_map.pkl` or `.npy`. Pickles are read by `arrays.py`, which
runs nothing of them.

Map to mask is CheXlocalize's rule: bilinear to the image's size, least and greatest value to 0 and
255, levels rounded down, foreground above Otsu's level or a fixed threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from chexseg_platform.data import masks
from chexseg_platform.evaluation.arrays import load_arrays
from chexseg_platform.evaluation.hits import peak
from chexseg_platform.findings import FINDINGS, UnknownFinding, canonical
from chexseg_platform.saliency.histogram import LEVELS, histogram, to_level
from chexseg_platform.saliency.threshold import normalise, otsu

SUFFIXES = ("_map.pkl", "_map.npy")


class BrokenHeatMap(ValueError):
    """A file that holds no heat map, or whose name does not say of what."""


@dataclass(frozen=True)
class HeatMap:
    """A map as it was saved.

    Attributes:
        map_hw: float32, of the model's size.
        size: (height, width) of the image, where the file says it.
    """

    map_hw: NDArray[np.float32]
    size: tuple[int, int] | None = None


class MapFiles(NamedTuple):
    """Heat maps below a folder: (file, image id, finding) by image; and files that are none."""

    maps: list[tuple[Path, str, str]]
    others: list[str]


def find_heat_maps(folder: str | Path) -> MapFiles:
    """Find every heat map below a folder.

    Other arrays and pickles, and maps of observations that CheXlocalize does not localize, are
    listed among the others.

    Raises:
        BrokenHeatMap: no map, a name that says nothing, or two maps of one image and finding.
    """
    found: dict[tuple[str, str], Path] = {}
    others = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix in (".pkl", ".npy")):
        key = _named(path) if path.name.endswith(SUFFIXES) else None
        if key is None or key[1] not in FINDINGS:
            others.append(path.name)
        elif key in found:
            raise BrokenHeatMap(f"{path}: there is another map of {key[1]} of {key[0]}.")
        else:
            found[key] = path
    if not found:
        raise BrokenHeatMap(
            f"{folder} holds no heat maps: they are called <image id>_<finding>_map.pkl or .npy."
        )
    return MapFiles([(path, *key) for key, path in sorted(found.items())], others)


def _named(path: Path) -> tuple[str, str]:
    image_id, _, finding = path.name[: -len(SUFFIXES[0])].rpartition("_")
    if not image_id:
        raise BrokenHeatMap(f"{path}: name it <image id>_<finding>_map.")
    try:
        return image_id, canonical(finding)
    except UnknownFinding as problem:
        raise BrokenHeatMap(f"{path}: {problem} Name it <image id>_<finding>_map.") from None


def read_heat_map(path: str | Path) -> HeatMap:
    """Read one map.

    Raises:
        BrokenHeatMap: a file that is no such map, with values that are not finite, or a pickle that
            names anything but arrays.
    """
    file = Path(path)
    try:
        if file.suffix == ".npy":
            # Mapped: a header that claims more than the file holds is refused, not allocated.
            return HeatMap(_plane(np.load(file, mmap_mode="r", allow_pickle=False)))
        content = load_arrays(file.read_bytes())
        if not isinstance(content, dict) or "map" not in content:
            raise ValueError("its pickle is no dictionary with a 'map'")
        return HeatMap(_plane(content["map"]), _dims(content.get("cxr_dims")))
    except Exception as problem:  # a file can be broken in any way
        raise BrokenHeatMap(f"{file} holds no heat map: {problem}") from None


def _dims(given: Any) -> tuple[int, int] | None:
    """Height and width of CheXlocalize's (width, height)."""
    if given is None:
        return None
    if not (isinstance(given, (tuple, list)) and len(given) == 2):
        raise ValueError("its image's size is no pair")
    if not all(type(side) is int for side in given):
        raise ValueError("its image's size is no pair of whole numbers")
    width, height = given
    masks.check_size(height, width)
    return height, width


def _plane(values: Any) -> NDArray[np.float32]:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ValueError("it is no array of numbers")
    if values.ndim < 2 or values.size == 0 or values.size != np.prod(values.shape[-2:]):
        raise ValueError(f"an array of shape {values.shape} is no map of one image")
    masks.check_size(*values.shape[-2:])
    with np.errstate(over="ignore"):
        plane = values.reshape(values.shape[-2:]).astype(np.float32)
    if not np.isfinite(plane).all():
        raise ValueError("some of its values are NaN or infinite")
    return plane


@dataclass(frozen=True)
class Cut:
    """A map at its image's size: COCO counts (None: empty), the pixel of its maximum, and whether
    it is flat, so that there is nothing to cut."""

    counts: str | None
    peak: tuple[int, int]
    flat: bool = False


def cut(map_hw: NDArray[np.float32], height: int, width: int, threshold: float | None) -> Cut:
    """Bring a map to its image's size, and cut it.

    Args:
        map_hw: finite, as `read_heat_map` gives it.
        threshold: in [0, 1], or None for Otsu's.

    Returns:
        An empty mask for a flat map.
    """
    heat = torch.from_numpy(np.ascontiguousarray(map_hw))[None, None]
    full = F.interpolate(heat, size=(height, width), mode="bilinear", align_corners=False)
    place = peak(full[0, 0].numpy())
    unit, usable = normalise(full)
    if not bool(usable):
        return Cut(None, place, flat=True)
    level = to_level(unit)
    least = otsu(histogram(level)) if threshold is None else round(threshold * (LEVELS - 1))
    mask = (level > least)[0, 0].numpy()
    return Cut(masks.encode(mask) if mask.any() else None, place)
