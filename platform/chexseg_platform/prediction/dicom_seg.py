"""Predictions of a DICOM radiograph as a DICOM segmentation, one object an image.

It is binary, has a segment a class that is not empty, and keeps its source's patient and study
and the reference to its instance, so that viewers and archives put it where it belongs. It carries
the patient's data as its source does: nothing else that is written here does, and messages name
attributes and never quote values.

A file appears under its name only after it was opened again, and its masks, read through the
reference to the source, were those that went in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from chexseg_platform import __version__
from chexseg_platform.data.dicom import quiet
from chexseg_platform.findings import OBSERVATIONS
from chexseg_platform.prediction.codes import PROPERTIES, Code
from chexseg_platform.prediction.model import Model
from chexseg_platform.prediction.output import published
from chexseg_platform.prediction.predicted import Add, NotExported, Predicted

RADIOGRAPHS = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
"""Classes of objects that are referred to; those of other classes may need functional groups."""

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What a radiograph must have, if only empty; where it is not there it is taken for empty."""

GEOMETRY = (
    "FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
    "SliceThickness",
)  # fmt: skip
"""Only all of these together place an image in space; radiographs have some of them at most."""

UTF_8 = "ISO_IR 192"

SERIES_NUMBER = 9000
NO_DICOM, NOTHING_FOUND = "no DICOM", "nothing found"


@contextmanager
def dicom_segmentations(folder: Path, model: Model) -> Iterator[Add]:
    """Write `<image id>.dcm` for every DICOM image in which something was found."""
    folder.mkdir(parents=True, exist_ok=True)

    def add(image: Predicted) -> str | None:
        if not image.source.is_dicom:
            return NO_DICOM
        masks = {name: image.mask(name) for name in model.classes if name in image.masks}
        if not masks:
            return NOTHING_FOUND
        with published(folder / f"{image.image_id}.dcm") as partial:
            write_segmentation(partial, image.source.path, masks, model)
        return None

    yield add


def write_segmentation(
    path: Path, source: Path, masks: Mapping[str, NDArray[np.bool_]], model: Model
) -> None:
    """Write a segmentation of a DICOM file, read it again, and compare.

    Args:
        path: to write.
        source: a DICOM radiograph of one frame.
        masks: class -> bool (H, W), none empty; a class has a code, see `codes.uncoded`.
        model: named as what made them.

    Raises:
        NotExported: the source lacks what a segmentation refers to, or cannot be carried over.
    """
    try:
        with quiet("highdicom"):
            header = read_header(source)
            _check(header, masks)
            _build(header, masks, model).save_as(path)
            _compare(path, header, masks)
    except (NotExported, OSError, MemoryError):
        raise
    except Exception as problem:
        # pydicom's and highdicom's own words may hold a value from the file.
        raise NotExported(
            f"No DICOM SEG: an attribute of the DICOM file cannot be carried over "
            f"({type(problem).__name__})."
        ) from None


def read_header(source: Path) -> Any:
    """Read a file without its pixels, and mend a copy's attributes so that it can be referred to.

    Absent attributes that must be there are empty; dates, times and sexes that DICOM does not know
    are too; geometry in part is left out; text becomes UTF-8, for highdicom refuses some character
    sets that are in use, Japan's usual one among them.
    """
    import pydicom

    header = pydicom.dcmread(source, stop_before_pixels=True, force=True)
    header.decode()
    header.SpecificCharacterSet = UTF_8
    stored = getattr(header, "file_meta", {})
    for name, uid in (("SOPClassUID", "MediaStorageSOPClassUID"),
                      ("SOPInstanceUID", "MediaStorageSOPInstanceUID")):  # fmt: skip
        if not header.get(name) and uid in stored:
            setattr(header, name, stored[uid].value)
    for name in TYPE_2:
        if not _usable(name, header.get(name)):
            setattr(header, name, "")
    if not all(header.get(name) for name in GEOMETRY):
        for name in GEOMETRY:
            header.pop(name, None)
    return header


def _usable(name: str, value: Any) -> bool:
    from pydicom.valuerep import DA, TM

    if not value:
        return False
    if name == "PatientSex":
        return value in ("M", "F", "O")
    kind = DA if name.endswith("Date") else TM if name.endswith("Time") else None
    try:
        return kind is None or kind(value) is not None
    except (ValueError, TypeError):
        return False


def _check(header: Any, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    for name in UIDS:
        if not header.get(name):
            raise NotExported(
                f"No DICOM SEG: the DICOM file has no {name}, so nothing can refer to it."
            )
    if header.SOPClassUID not in RADIOGRAPHS or int(header.get("NumberOfFrames") or 1) != 1:
        raise NotExported(
            "No DICOM SEG: the DICOM file is neither CR, DX nor secondary capture of one frame."
        )
    shape = (int(header.Rows), int(header.Columns))
    if any(mask.shape != shape for mask in masks.values()):
        raise NotExported("No DICOM SEG: the DICOM file changed while it was predicted.")


def _build(header: Any, masks: Mapping[str, NDArray[np.bool_]], model: Model) -> Any:
    from highdicom import UID
    from highdicom.seg import Segmentation, SegmentationTypeValues

    what = "Findings" if set(model.classes) <= set(OBSERVATIONS) else "Structures"
    segmentation = Segmentation(
        source_images=[header],
        pixel_array=np.stack(list(masks.values()), axis=-1)[None],
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _segment(number, name, model) for number, name in enumerate(masks, start=1)
        ],
        series_instance_uid=UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="chexseg-platform",
        manufacturer_model_name="chexseg-platform predict",
        software_versions=__version__,
        device_serial_number=model.digest[:16],
        content_label=what.upper(),
        content_description=f"{what} outlined by a model, not reviewed",
        series_description=f"{what} outlined by a model, not reviewed",
    )
    # highdicom leaves it out, and an image without orientation in space must have it, if empty.
    segmentation.PatientOrientation = header.get("PatientOrientation") or None
    return segmentation


def _segment(number: int, name: str, model: Model) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    what = PROPERTIES[name]
    segment = SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=_concept(what.category),
        segmented_property_type=_concept(what.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"{model.spec['architecture']} {model.spec['encoder']}"[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=model.digest[:16],
            source="chexseg-platform",
            parameters={
                "threshold": f"{model.thresholds[name]:.6g}",
                "size": str(model.size),
            },
        ),
        anatomic_regions=None if what.region is None else [_concept(what.region)],
    )
    if what.side is not None:
        # highdicom has no argument for it; DICOM has it inside the type's item.
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(what.side)]
    return segment


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def _compare(path: Path, header: Any, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    """Open what was written, and find the same masks by the source's instance."""
    from highdicom.seg import segread

    again = segread(path)
    series = again.ReferencedSeriesSequence[0]
    copied = ("StudyInstanceUID", "PatientID", "PatientName")
    kept = series.SeriesInstanceUID == header.SeriesInstanceUID and all(
        again[name].value == header[name].value for name in copied
    )
    pixels = again.get_pixels_by_source_instance([header.SOPInstanceUID])
    labels = [again.get_segment_description(n).segment_label for n in again.segment_numbers]
    same = labels == list(masks) and all(
        np.array_equal(pixels[0, :, :, k].astype(bool), mask)
        for k, mask in enumerate(masks.values())
    )
    if not (kept and same):
        raise NotExported("No DICOM SEG: what was written did not come back as it was.")
