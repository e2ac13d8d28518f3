"""The formats that predictions are written in, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from chexseg_platform.prediction import coco, output, pictures, tables
from chexseg_platform.prediction.inputs import BadInputs, Inputs
from chexseg_platform.prediction.model import Model
from chexseg_platform.prediction.predicted import Add

PNG, CHEXLOCALIZE, COCO, DICOM_SEG = "png", "chexlocalize", "coco", "dicom-seg"
FORMATS = (PNG, CHEXLOCALIZE, COCO, DICOM_SEG)
DEFAULT = (PNG, CHEXLOCALIZE)
OVERLAYS, TABLE = "overlays", "table"


class UnknownFormat(ValueError):
    """A name that is no format."""


def parse_formats(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the formats that comma-separated lists name, each once; the default for none.

    Raises:
        UnknownFormat: naming the first that is none, and those that there are.
    """
    names = dict.fromkeys(name.strip() for text in texts for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            raise UnknownFormat(f"{name!r} is no format; there are {', '.join(FORMATS)}.")
    return tuple(names) or DEFAULT


def check_formats(formats: Sequence[str], inputs: Inputs) -> None:
    """Raise BadInputs where segmentations are asked for and no image is a DICOM file."""
    if DICOM_SEG in formats and not any(image.is_dicom for image in inputs.images):
        raise BadInputs(
            f"None of the images is a DICOM file, and a DICOM segmentation refers to one: leave "
            f"{DICOM_SEG} out, or name DICOM files."
        )


def open_exports(
    stack: ExitStack, out: Path, formats: Sequence[str], overlay: bool, model: Model
) -> Mapping[str, Add]:
    """Open everything that is to be written into a folder; it is whole when the stack ends."""
    exports = {TABLE: tables.csv_table(out / output.TABLE, model.thresholds)}
    if PNG in formats:
        exports[PNG] = pictures.mask_pictures(out / output.MASKS)
    if CHEXLOCALIZE in formats:
        exports[CHEXLOCALIZE] = tables.chexlocalize_file(out / output.CHEXLOCALIZE)
    if COCO in formats:
        exports[COCO] = coco.coco_file(out / output.COCO)
    if DICOM_SEG in formats:
        from chexseg_platform.prediction.dicom_seg import dicom_segmentations

        exports[DICOM_SEG] = dicom_segmentations(out / output.SEGS, model)
    if overlay:
        exports[OVERLAYS] = pictures.overlay_pictures(out / output.OVERLAYS)
    return {name: stack.enter_context(export) for name, export in exports.items()}
