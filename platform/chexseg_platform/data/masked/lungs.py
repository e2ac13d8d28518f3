"""Lung masks of Montgomery County (138 radiographs) and of Shenzhen (566 of 662).

Both were taken to screen for tuberculosis. Montgomery's lungs are drawn one by one
(`ManualMask/leftMask`, `rightMask`), Shenzhen's together, in a folder of their own
(`CHNCXR_0001_0_mask.png`); 96 of its images have none, and are not listed.
"""

from __future__ import annotations

from pathlib import Path

from chexseg_platform.data.entries import Entry
from chexseg_platform.data.masked.files import files_in, joined, needed_folder
from chexseg_platform.findings import LEFT_LUNG, LUNGS, RIGHT_LUNG


def read_montgomery(root: Path) -> list[Entry]:
    """List Montgomery's images; all are "train" (see `files.shared_out`).

    Args:
        root: `MontgomerySet`, or the folder that it lies in.

    Raises:
        NoCollection: naming what was looked for.
    """
    base = root / "MontgomerySet" if (root / "MontgomerySet").is_dir() else root
    masks = {
        LEFT_LUNG: files_in(needed_folder(base, "left lungs", "ManualMask/leftMask")),
        RIGHT_LUNG: files_in(needed_folder(base, "right lungs", "ManualMask/rightMask")),
    }
    images = files_in(needed_folder(base, "images", "CXR_png"))
    return joined(root, images, masks, split="train")


def read_shenzhen(root: Path, masks: Path | None = None) -> list[Entry]:
    """List Shenzhen's images that have a mask; all are "train".

    Args:
        root: `ChinaSet_AllFiles`, or the folder that it lies in.
        masks: folder of the masks; by default `mask` or `masks` beside the images' folder.

    Raises:
        NoCollection: naming what was looked for.
    """
    base = root / "ChinaSet_AllFiles" if (root / "ChinaSet_AllFiles").is_dir() else root
    folder = masks or needed_folder(base, "masks", "mask", "masks")
    drawn = {name.removesuffix("_mask"): path for name, path in files_in(folder).items()}
    images = files_in(needed_folder(base, "images", "CXR_png"))
    seen = {name: path for name, path in images.items() if name in drawn}
    return joined(root, seen, {LUNGS: drawn}, split="train")
