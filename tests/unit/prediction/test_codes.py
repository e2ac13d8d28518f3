"""The coded terms fit their attributes, and agree with DICOM's dictionary where it has them."""

from chexseg_platform.findings import FINDINGS
from chexseg_platform.prediction.codes import PROPERTIES, Code
from pydicom.sr._concepts_dict import concepts

CODES = {
    code
    for what in PROPERTIES.values()
    for code in (what.category, what.type, what.region)
    if code is not None
}


def meanings(code: Code) -> list[str]:
    """What DICOM's dictionary calls a code."""
    terms = concepts.get(code.scheme, {}).values()
    return [found[code.value][0] for found in terms if code.value in found]


def test_every_finding_has_terms_that_fit() -> None:
    assert list(PROPERTIES) == list(FINDINGS)
    assert all(len(code.value) <= 16 and len(code.scheme) <= 16 for code in CODES)
    assert len({what.type for what in PROPERTIES.values()}) == len(FINDINGS)


def test_terms_are_dicoms_own_where_it_has_them() -> None:
    known = {code for code in CODES if meanings(code)}
    assert all(code.meaning in meanings(code) for code in known)
    names = {code.meaning for code in CODES - known}
    assert names == {
        "Enlarged Cardiomediastinum",
        "Cardiomegaly",
        "Lung consolidation",
        "Atelectasis",
        "Device",
    }
