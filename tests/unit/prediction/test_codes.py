"""The coded terms fit their attributes, and are DICOM's own where its dictionary has them."""

import pytest
from chexseg_platform.findings import FINDINGS, INFECTION, ORGANS, PLACED, STRUCTURES
from chexseg_platform.prediction.codes import PROPERTIES, Code, uncoded
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as Term

SCT, DCM = codes.SCT, codes.DCM


def test_every_finding_and_organ_has_terms_that_fit() -> None:
    assert list(PROPERTIES)[:10] == list(FINDINGS)
    assert set(PROPERTIES) == {*FINDINGS, *STRUCTURES} - {INFECTION}
    for what in PROPERTIES.values():
        for code in filter(None, what):
            assert 0 < len(code.value) <= 16
            assert 0 < len(code.scheme) <= 16
            assert 0 < len(code.meaning) <= 64
    assert len({(what.type, what.side) for what in PROPERTIES.values()}) == len(PROPERTIES)


def test_what_no_term_means_has_none() -> None:
    assert uncoded((*FINDINGS, *ORGANS)) == []
    assert uncoded(PLACED) == ["Pneumonia", "Pleural Other", "Fracture"]
    assert uncoded(("Heart", INFECTION, "a/b")) == [INFECTION, "a/b"]


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
        (PROPERTIES["Heart"].category, SCT.AnatomicalStructure),
        (PROPERTIES["Heart"].type, SCT.Heart),
        (PROPERTIES["Right Lung"].type, SCT.Lung),
        (PROPERTIES["Right Lung"].side, SCT.Right),
        (PROPERTIES["Left Lung"].side, SCT.Left),
        (PROPERTIES["Lungs"].side, SCT.Bilateral),
        (PROPERTIES["Left Clavicle"].type, SCT.Clavicle),
        (PROPERTIES["Left Clavicle"].side, SCT.Left),
        (PROPERTIES["Right Clavicle"].side, SCT.Right),
        (PROPERTIES["Clavicles"].side, SCT.Bilateral),
    ],
)
def test_terms_are_dicoms_own(code: Code, term: Term) -> None:
    assert tuple(code) == (term.value, term.scheme_designator, term.meaning)
