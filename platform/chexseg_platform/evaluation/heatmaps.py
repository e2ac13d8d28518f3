"""Heat maps from files: CheXlocalize's pickles and NumPy arrays, one of an image and a finding.

A file is named `<image id>_<finding>_map.pkl` or `.npy`. A pickle is a program: loading one runs
whatever its author wrote. Here it is interpreted with the few constructors that arrays and tensors
need, and any other name in it ends the reading, so nothing of it is ever run.

Map to mask is CheXlocalize's rule: bilinear to the image's size, least and greatest value to 0 and
255, levels rounded down, foreground above Otsu's level or a fixed threshold.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from chexseg_platform.data import masks
from chexseg_platform.evaluation.hits import peak
from chexseg_platform.findings import FINDINGS, UnknownFinding, canonical
from chexseg_platform.saliency.histogram import LEVELS, histogram, to_level
from chexseg_platform.saliency.threshold import normalise, otsu

SUFFIXES = ("_map.pkl", "_map.npy")
ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor_v2"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in
      ("_reconstruct", "scalar")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}  # fmt: skip
"""Names that a pickle may use: what arrays, tensors and their scalars are put together by."""


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


def find_heat_maps(folder: str | Path) -> list[tuple[Path, str, str]]:
    """Every heat map below a folder, by image: (file, image id, finding).

    Maps of observations that CheXlocalize does not localize are left out.

    Raises:
        BrokenHeatMap: no map, a name that says nothing, or two maps of one image and finding.
    """
    files = sorted(path for end in SUFFIXES for path in Path(folder).rglob(f"*{end}"))
    found = {}
    for path in files:
        image_id, finding = _named(path)
        if finding not in FINDINGS:
            continue
        if (image_id, finding) in found:
            raise BrokenHeatMap(f"{path}: there is another map of {finding} of {image_id}.")
        found[image_id, finding] = path
    if not found:
        raise BrokenHeatMap(
            f"{folder} holds no heat maps: they are called <image id>_<finding>_map.pkl or .npy."
        )
    return [(path, *key) for key, path in sorted(found.items())]


def _named(path: Path) -> tuple[str, str]:
    image_id, _, finding = path.name[: -len(SUFFIXES[0])].rpartition("_")
    try:
        return image_id, canonical(finding)
    except UnknownFinding as problem:
        raise BrokenHeatMap(f"{path}: {problem} Name it <image id>_<finding>_map.") from None


def read_heat_map(path: str | Path) -> HeatMap:
    """Read one map.

    Raises:
        BrokenHeatMap: a file that is no such map, or a pickle that names anything but arrays.
    """
    file = Path(path)
    try:
        if file.suffix == ".npy":
            return HeatMap(_plane(np.load(file, allow_pickle=False), file))
        with file.open("rb") as stream:
            content = _ArraysOnly(stream).load()
        return _of_pickle(content, file)
    except BrokenHeatMap:
        raise
    except Exception as problem:  # a pickle can fail in any way
        raise BrokenHeatMap(f"{file}: no heat map can be read: {problem}") from None


class _ArraysOnly(pickle.Unpickler):
    """Puts arrays and tensors together, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        if (module, name) not in ALLOWED:
            raise BrokenHeatMap(
                f"the pickle asks for {module}.{name}, which no heat map needs: it is not loaded"
            )
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise BrokenHeatMap("the pickle refers to something outside itself: it is not loaded")


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _of_pickle(content: Any, file: Path) -> HeatMap:
    if not isinstance(content, dict) or "map" not in content:
        raise BrokenHeatMap(f"{file}: a heat map's pickle is a dictionary with a 'map'.")
    size = None
    if content.get("cxr_dims") is not None:
        width, height = (int(side) for side in content["cxr_dims"])
        size = height, width
    return HeatMap(_plane(content["map"], file), size)


def _plane(values: Any, file: Path) -> NDArray[np.float32]:
    array = np.asarray(values)
    plane = array.reshape(array.shape[-2:]) if array.ndim >= 2 and array.size else array
    if plane.ndim != 2 or plane.dtype.kind not in "fiu":
        raise BrokenHeatMap(f"{file}: {array.dtype} of shape {array.shape} is no map of one image.")
    return plane.astype(np.float32)


@dataclass(frozen=True)
class Cut:
    """A map at its image's size: COCO counts (None: empty), and the pixel of its maximum."""

    counts: str | None
    peak: tuple[int, int]


def cut(map_hw: NDArray[np.float32], height: int, width: int, threshold: float | None) -> Cut:
    """Bring a map to its image's size, and cut it.

    Args:
        map_hw: finite.
        threshold: in [0, 1], or None for Otsu's.

    Returns:
        An empty mask for a flat map.

    Raises:
        BadHeatMap: the map holds NaN.
    """
    heat = torch.from_numpy(np.ascontiguousarray(map_hw))[None, None]
    full = F.interpolate(heat, size=(height, width), mode="bilinear", align_corners=False)
    place = peak(full[0, 0].numpy())
    unit, usable = normalise(full)
    if not bool(usable):
        return Cut(None, place)
    level = to_level(unit)
    least = otsu(histogram(level)) if threshold is None else round(threshold * (LEVELS - 1))
    mask = (level > least)[0, 0].numpy()
    return Cut(masks.encode(mask) if mask.any() else None, place)
