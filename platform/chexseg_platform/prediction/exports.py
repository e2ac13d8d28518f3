"""The formats that predictions are written in, by name, and which classes they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from chexseg_platform.findings import FINDINGS
from chexseg_platform.prediction import coco, output, pictures, tables
from chexseg_platform.prediction.codes import uncoded
from chexseg_platform.prediction.inputs import BadInputs, Inputs
from chexseg_platform.prediction.model import Model
from chexseg_platform.prediction.predicted import Add

PNG, CHEXLOCALIZE, COCO, DICOM_SEG = "png", "chexlocalize", "coco", "dicom-seg"
FORMATS = (PNG, CHEXLOCALIZE, COCO, DICOM_SEG)
DEFAULT = (PNG, CHEXLOCALIZE)
OVERLAYS, TABLE = "overlays", "table"


class UnknownFormat(ValueError):
    """A name that is no format."""


class UnsuitableFormat(ValueError):
    """A format that cannot hold what a segmenter segments."""


def parse_formats(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the formats that comma-separated lists name, each once.

    Raises:
        UnknownFormat: naming the first that is none, and those that there are.
    """
    names = dict.fromkeys(name.strip() for text in texts for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            raise UnknownFormat(f"{name!r} is no format; there are {', '.join(FORMATS)}.")
    return tuple(names)


def check_formats(formats: Sequence[str], inputs: Inputs) -> None:
    """Raise BadInputs where segmentations are asked for and no image is a DICOM file."""
    if DICOM_SEG in formats and not any(image.is_dicom for image in inputs.images):
        raise BadInputs(
            f"None of the images is a DICOM file, and a DICOM segmentation refers to one: leave "
            f"{DICOM_SEG} out, or name DICOM files."
        )


def choose_formats(asked: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Return the formats that were asked for or, for none, those of the default that fit.

    Raises:
        UnsuitableFormat: where one that was asked for does not take these classes.
    """
    why_not = {name: why for name in FORMATS if (why := _unfit(name, classes)) is not None}
    for name in asked:
        if name in why_not:
            others = ", ".join(other for other in FORMATS if other not in why_not)
            raise UnsuitableFormat(
                f"{why_not[name]}: leave {name} out; for this segmenter there are {others}."
            )
    return tuple(asked) or tuple(name for name in DEFAULT if name not in why_not)


def _unfit(name: str, classes: Sequence[str]) -> str | None:
    """Say why a format does not take these classes, or None where it does."""
    lacking = [finding for finding in FINDINGS if finding not in classes]
    if name == CHEXLOCALIZE and lacking:
        return (
            f"CheXlocalize's JSON holds all of its ten findings, and this segmenter has no "
            f"{lacking[0]}"
        )
    if name == DICOM_SEG and (without := uncoded(classes)):
        return f"A DICOM segmentation needs coded terms, and there is none for {', '.join(without)}"
    return None


def open_exports(
    stack: ExitStack, out: Path, formats: Sequence[str], overlay: bool, model: Model
) -> Mapping[str, Add]:
    """Open everything that is to be written into a folder; it is whole when the stack ends."""
    exports = {TABLE: tables.csv_table(out / output.TABLE, model.thresholds)}
    if PNG in formats:
        exports[PNG] = pictures.mask_pictures(out / output.MASKS, model.classes)
    if CHEXLOCALIZE in formats:
        exports[CHEXLOCALIZE] = tables.chexlocalize_file(out / output.CHEXLOCALIZE)
    if COCO in formats:
        exports[COCO] = coco.coco_file(out / output.COCO, model.classes)
    if DICOM_SEG in formats:
        from chexseg_platform.prediction.dicom_seg import dicom_segmentations

        exports[DICOM_SEG] = dicom_segmentations(out / output.SEGS, model)
    if overlay:
        exports[OVERLAYS] = pictures.overlay_pictures(out / output.OVERLAYS, model.classes)
    return {name: stack.enter_context(export) for name, export in exports.items()}
