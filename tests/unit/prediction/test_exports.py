"""Which formats there are, and which classes they take."""

import pytest
from chexseg_platform.findings import FINDINGS, INFECTION, ORGANS, PLACED
from chexseg_platform.prediction.exports import (
    FORMATS,
    UnknownFormat,
    UnsuitableFormat,
    choose_formats,
    parse_formats,
)


def test_formats_are_named_once() -> None:
    assert parse_formats(["coco, png", "png"]) == ("coco", "png")
    assert parse_formats([]) == ()
    with pytest.raises(UnknownFormat, match="'jpeg' is no format"):
        parse_formats(["png,jpeg"])


@pytest.mark.parametrize(
    ("classes", "default"),
    [
        (FINDINGS, ("png", "chexlocalize")),
        (PLACED, ("png", "chexlocalize")),
        (FINDINGS[1:], ("png",)),
        (ORGANS, ("png",)),
        ((INFECTION,), ("png",)),
    ],
)
def test_the_default_is_what_fits(classes: tuple[str, ...], default: tuple[str, ...]) -> None:
    assert choose_formats([], classes) == default


def test_what_was_asked_for_is_taken_where_it_fits() -> None:
    assert choose_formats(FORMATS, FINDINGS) == FORMATS
    fitting = ("dicom-seg", "coco", "png")
    assert choose_formats(fitting, ORGANS) == fitting


def test_what_does_not_fit_says_why_and_what_does() -> None:
    with pytest.raises(UnsuitableFormat) as caught:
        choose_formats(["png", "chexlocalize"], ("Heart", *FINDINGS[:-1]))
    assert str(caught.value) == (
        "CheXlocalize's JSON holds all of its ten findings, and this segmenter has no Support "
        "Devices: leave chexlocalize out; for this segmenter there are png, coco, dicom-seg."
    )
    with pytest.raises(UnsuitableFormat) as caught:
        choose_formats(["dicom-seg"], ("Heart", INFECTION, "a/b"))
    assert str(caught.value) == (
        "A DICOM segmentation needs coded terms, and there is none for COVID-19 Infection, a/b: "
        "leave dicom-seg out; for this segmenter there are png, coco."
    )
