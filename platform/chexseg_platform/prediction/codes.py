"""Findings and organs in coded terms, as DICOM segmentations need them.

Categories are from DICOM's context group CID 7150. Types, where DICOM's own groups have the term:
lesion (CID 7159), opacity (CID 6104), pneumothorax (CID 6105), pulmonary edema (CID 3700), pleural
effusion (CID 645). Cardiomegaly, lung consolidation, atelectasis and device are SNOMED CT's own
concepts of those names; pydicom's dictionary offers another code as "Cardiomegaly", 287272002,
which SNOMED CT calls an enlarged septal foramen. For an enlarged cardiomediastinum, CheXpert's own
notion, neither has a term that means the same, so it has a private one, as DICOM provides for
(designators from 99 on), rather than one that says something else.

Organs are of CID 7151, with a modifier from CID 244 for their side. What has no entry has no term
here, for a wrong code is worse than none: pneumonia, other pleural lesions, fractures and COVID-19
infection, which pydicom's dictionary of DICOM's groups lacks, and whatever else a segmenter was
taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chexseg_platform.findings import (
    CLAVICLES,
    FINDINGS,
    HEART,
    LEFT_CLAVICLE,
    LEFT_LUNG,
    LUNGS,
    RIGHT_CLAVICLE,
    RIGHT_LUNG,
)


class Code(NamedTuple):
    """A coded term: value, designator of its coding scheme, meaning."""

    value: str
    scheme: str
    meaning: str


class Property(NamedTuple):
    """What a segment is: its category, its type, and where it lies and on which side, if the type
    does not say."""

    category: Code
    type: Code
    region: Code | None = None
    side: Code | None = None


_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_OBJECT = Code("260787004", "SCT", "Physical object")
_ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
_LUNG = Code("39607008", "SCT", "Lung")
_CLAVICLE = Code("51299004", "SCT", "Clavicle")
_RIGHT = Code("24028007", "SCT", "Right")
_LEFT = Code("7771000", "SCT", "Left")
_BOTH = Code("51440002", "SCT", "Bilateral")

PROPERTIES: dict[str, Property] = {
    "Enlarged Cardiomediastinum": Property(
        _ABNORMAL, Code("ENL_CARDIOMED", "99CHEXSEG", "Enlarged Cardiomediastinum")
    ),
    "Cardiomegaly": Property(_ABNORMAL, Code("8186001", "SCT", "Cardiomegaly")),
    "Lung Lesion": Property(_ABNORMAL, Code("52988006", "SCT", "Lesion"), _LUNG),
    "Lung Opacity": Property(_ABNORMAL, Code("112001", "DCM", "Opacity"), _LUNG),
    "Edema": Property(_ABNORMAL, Code("19242006", "SCT", "Pulmonary edema")),
    "Consolidation": Property(_ABNORMAL, Code("95436008", "SCT", "Lung consolidation")),
    "Atelectasis": Property(_ABNORMAL, Code("46621007", "SCT", "Atelectasis")),
    "Pneumothorax": Property(_ABNORMAL, Code("36118008", "SCT", "Pneumothorax")),
    "Pleural Effusion": Property(_ABNORMAL, Code("60046008", "SCT", "Pleural effusion")),
    "Support Devices": Property(_OBJECT, Code("49062001", "SCT", "Device")),
    RIGHT_LUNG: Property(_ANATOMY, _LUNG, side=_RIGHT),
    LEFT_LUNG: Property(_ANATOMY, _LUNG, side=_LEFT),
    LUNGS: Property(_ANATOMY, _LUNG, side=_BOTH),
    HEART: Property(_ANATOMY, Code("80891009", "SCT", "Heart")),
    RIGHT_CLAVICLE: Property(_ANATOMY, _CLAVICLE, side=_RIGHT),
    LEFT_CLAVICLE: Property(_ANATOMY, _CLAVICLE, side=_LEFT),
    CLAVICLES: Property(_ANATOMY, _CLAVICLE, side=_BOTH),
}
assert tuple(PROPERTIES)[: len(FINDINGS)] == FINDINGS


def uncoded(classes: Sequence[str]) -> list[str]:
    """Return the classes that have no coded term."""
    return [name for name in classes if name not in PROPERTIES]
