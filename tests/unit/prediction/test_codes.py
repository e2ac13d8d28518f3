"""The coded terms fit their attributes, and are DICOM's own where its dictionary has them."""

import pytest
from chexseg_platform.findings import FINDINGS
from chexseg_platform.prediction.codes import PROPERTIES, Code
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as Term

SCT, DCM = codes.SCT, codes.DCM


def test_every_finding_has_terms_that_fit() -> None:
    assert list(PROPERTIES) == list(FINDINGS)
    for what in PROPERTIES.values():
        for code in filter(None, what):
            assert 0 < len(code.value) <= 16
            assert 0 < len(code.scheme) <= 16
            assert 0 < len(code.meaning) <= 64
    assert len({what.type for what in PROPERTIES.values()}) == len(FINDINGS)


@pytest.mark.parametrize(
    ("code", "term"),
    [
        (PROPERTIES["Edema"].category, SCT.MorphologicallyAbnormalStructure),
        (PROPERTIES["Support Devices"].category, SCT.PhysicalObject),
        (PROPERTIES["Lung Lesion"].type, SCT.Lesion),
        (PROPERTIES["Lung Lesion"].region, SCT.Lung),
        (PROPERTIES["Lung Opacity"].type, DCM.Opacity),
        (PROPERTIES["Lung Opacity"].region, SCT.Lung),
        (PROPERTIES["Edema"].type, SCT.PulmonaryEdema),
        (PROPERTIES["Pneumothorax"].type, SCT.Pneumothorax),
        (PROPERTIES["Pleural Effusion"].type, SCT.PleuralEffusion),
    ],
)
def test_terms_are_dicoms_own(code: Code, term: Term) -> None:
    assert tuple(code) == (term.value, term.scheme_designator, term.meaning)
