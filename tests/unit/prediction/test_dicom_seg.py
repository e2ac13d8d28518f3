"""DICOM segmentations: what goes in comes out, at its source, and nothing leaks on the way."""

import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from chexseg_platform.prediction import dicom_seg
from chexseg_platform.prediction.dicom_seg import (
    NO_DICOM,
    NOTHING_FOUND,
    TYPE_2,
    UIDS,
    dicom_segmentations,
    write_segmentation,
)
from chexseg_platform.prediction.model import Model
from chexseg_platform.prediction.predicted import NotExported
from PIL import Image

SHAPE = (51, 39)
CANARY = "CANARY4711"


def blob(top: int, left: int, side: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


MASKS = {
    "Cardiomegaly": blob(10, 8, 20),
    "Lung Opacity": blob(0, 0, 15),  # overlaps the first
    "Support Devices": blob(50, 38, 1),
}


@pytest.fixture
def source(tmp_path: Path, make_radiograph: Callable, make_picture: Callable) -> Path:
    return make_radiograph(tmp_path / "source.dcm", make_picture(*SHAPE, kind=np.uint16))


def frames(path: Path) -> dict[str, np.ndarray]:
    """Masks of a segmentation by label, read by pydicom alone."""
    data = pydicom.dcmread(path)
    labels = {item.SegmentNumber: item.SegmentLabel for item in data.SegmentSequence}
    pixels = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    numbers = [
        item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for item in data.PerFrameFunctionalGroupsSequence
    ]
    return {
        labels[number]: frame.astype(bool) for number, frame in zip(numbers, pixels, strict=True)
    }


def test_masks_come_back_exactly(source: Path, tmp_path: Path, model: Model) -> None:
    write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
    found = frames(tmp_path / "seg.dcm")
    assert list(found) == list(MASKS)
    for finding, mask in MASKS.items():
        np.testing.assert_array_equal(found[finding], mask)


def test_the_source_is_referred_to(
    tmp_path: Path, make_radiograph: Callable, make_picture: Callable, model: Model
) -> None:
    source = make_radiograph(
        tmp_path / "source.dcm",
        make_picture(*SHAPE, kind=np.uint16),
        SeriesInstanceUID="1.2.3",
        StudyInstanceUID="1.2.4",
        PatientName="Doe^Jane",
        PatientID="P1",
        PatientBirthDate="19500102",
        PatientSex="F",
        AccessionNumber="A7",
        StudyDate="20200304",
        PatientOrientation=["L", "F"],
    )
    write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
    seg, header = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(source)
    for name in ("StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
                 "AccessionNumber", "StudyDate", "PatientOrientation"):  # fmt: skip
        assert seg[name].value == header[name].value, name
    series = seg.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "1.2.3"
    instance = series.ReferencedInstanceSequence[0]
    assert instance.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == header.SOPClassUID
    for frame in seg.PerFrameFunctionalGroupsSequence:
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert image.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert seg.SOPInstanceUID != header.SOPInstanceUID
    assert seg.SeriesInstanceUID != header.SeriesInstanceUID
    assert (seg.Modality, seg.SegmentationType) == ("SEG", "BINARY")


def test_segments_say_what_they_are_and_who_made_them(
    source: Path, tmp_path: Path, model: Model
) -> None:
    write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
    heart, opacity, device = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert heart.SegmentedPropertyTypeCodeSequence[0].CodeValue == "8186001"
    assert heart.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert device.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "260787004"
    assert opacity.AnatomicRegionSequence[0].CodeMeaning == "Lung"
    assert heart.SegmentAlgorithmType == "AUTOMATIC"
    made = heart.SegmentationAlgorithmIdentificationSequence[0]
    assert made.AlgorithmVersion == model.digest[:16]
    assert "threshold=0.5" in made.AlgorithmParameters


def test_organs_say_on_which_side_they_are(
    source: Path, tmp_path: Path, make_model: Callable, make_predicted: Callable
) -> None:
    classes = ("Left Lung", "Heart", "Lungs")
    image = make_predicted(
        "a",
        {"Heart": blob(20, 20, 9), "Left Lung": blob(0, 0, 15)},
        *SHAPE,
        path=str(source),
        classes=classes,
    )
    with dicom_segmentations(tmp_path / "segs", make_model(*classes)) as add:
        assert add(image) is None
    seg = pydicom.dcmread(tmp_path / "segs" / "a.dcm")
    assert (seg.ContentLabel, seg.SeriesDescription[:10]) == ("STRUCTURES", "Structures")
    lung, heart = seg.SegmentSequence  # in the order of the classes
    assert (lung.SegmentLabel, heart.SegmentLabel) == ("Left Lung", "Heart")
    (kind,) = lung.SegmentedPropertyTypeCodeSequence
    (side,) = kind.SegmentedPropertyTypeModifierCodeSequence
    assert (kind.CodeMeaning, side.CodeValue, side.CodeMeaning) == ("Lung", "7771000", "Left")
    assert lung.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    (kind,) = heart.SegmentedPropertyTypeCodeSequence
    assert kind.CodeValue == "80891009"
    assert "SegmentedPropertyTypeModifierCodeSequence" not in kind


@pytest.mark.parametrize("orientation", [None, ""])
def test_an_orientation_that_nobody_knows_is_empty(
    tmp_path: Path,
    make_radiograph: Callable,
    make_picture: Callable,
    model: Model,
    orientation: str | None,
) -> None:
    given = {} if orientation is None else {"PatientOrientation": orientation}
    pixels = make_picture(*SHAPE, kind=np.uint16)
    source = make_radiograph(tmp_path / "source.dcm", pixels, **given)
    write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert "PatientOrientation" in seg
    assert not seg.PatientOrientation


@pytest.mark.parametrize("name", TYPE_2)
def test_attributes_that_must_be_there_are_empty_where_they_are_not(
    tmp_path: Path, make_radiograph: Callable, make_picture: Callable, model: Model, name: str
) -> None:
    whole = dict.fromkeys(TYPE_2, "") | {"PatientID": "P1"}
    source = make_radiograph(
        tmp_path / "source.dcm", make_picture(*SHAPE, kind=np.uint16), **whole | {name: ""}
    )
    data = pydicom.dcmread(source)
    del data[name]
    data.save_as(source)
    write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
    assert not pydicom.dcmread(tmp_path / "seg.dcm")[name].value


@pytest.mark.parametrize(
    "odd",
    [
        {"PatientSex": "U"},
        {"PatientBirthDate": "unknown"},
        {"StudyTime": "noon"},
        {"PatientName": "A^B^C^D^E^F^G"},
        {"FrameOfReferenceUID": "1.2.9"},
        {"FrameOfReferenceUID": "1.2.9", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
         "ImagePositionPatient": [0, 0, 0], "PixelSpacing": [0.2, 0.2]},
        {"FrameOfReferenceUID": "1.2.9", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
         "ImagePositionPatient": [0, 0, 0], "PixelSpacing": [0.2, 0.2], "SliceThickness": 1},
        {"ImagerPixelSpacing": [0.2, 0.2]},
        {"NumberOfFrames": 1},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东"},
    ],
)  # fmt: skip
def test_odd_headers_are_carried_over(
    tmp_path: Path, make_radiograph: Callable, make_picture: Callable, model: Model, odd: dict
) -> None:
    with dicom_seg.quiet():
        source = make_radiograph(
            tmp_path / "source.dcm", make_picture(*SHAPE, kind=np.uint16), **odd
        )
    write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
    with dicom_seg.quiet():
        assert list(frames(tmp_path / "seg.dcm")) == list(MASKS)
        if "SpecificCharacterSet" in odd:
            assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == odd["PatientName"]


def test_a_file_without_preamble_is_carried_over(
    source: Path, tmp_path: Path, model: Model
) -> None:
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(source.read_bytes()[132:])
    write_segmentation(tmp_path / "seg.dcm", bare, MASKS, model)
    assert list(frames(tmp_path / "seg.dcm")) == list(MASKS)


def test_what_cannot_be_referred_to_is_refused(source: Path, tmp_path: Path, model: Model) -> None:
    seg = tmp_path / "seg.dcm"
    for name in UIDS:
        data = pydicom.dcmread(source)
        del data[name]
        data.file_meta.MediaStorageSOPClassUID = data.file_meta.MediaStorageSOPInstanceUID = ""
        buffer = BytesIO()
        pydicom.dcmwrite(buffer, data, enforce_file_format=False)
        broken = tmp_path / f"{name}.dcm"
        broken.write_bytes(buffer.getvalue())
        with pytest.raises(NotExported, match=f"has no {name}"):
            write_segmentation(seg, broken, MASKS, model)
    with pytest.raises(NotExported, match="changed while"):
        write_segmentation(seg, source, {"Edema": blob(0, 0, 3, (51, 40))}, model)


@pytest.mark.parametrize(
    "other",
    [
        {"NumberOfFrames": 2},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2", "NumberOfFrames": 1},
        {"SOPClassUID": "1.2.3.4"},
    ],
)
def test_what_is_no_radiograph_of_one_frame_is_refused(
    tmp_path: Path, make_radiograph: Callable, make_picture: Callable, model: Model, other: dict
) -> None:
    pixels = make_picture(*SHAPE, kind=np.uint16)
    source = make_radiograph(tmp_path / "source.dcm", pixels, **other)
    with pytest.raises(NotExported, match="neither CR, DX nor secondary capture of one frame"):
        write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_segmentation_that_reads_back_otherwise_is_not_published(
    source: Path,
    tmp_path: Path,
    model: Model,
    make_predicted: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = dicom_seg._build

    def wrong(header: object, masks: dict, model: Model) -> object:
        return build(header, {name: ~mask for name, mask in masks.items()}, model)

    monkeypatch.setattr(dicom_seg, "_build", wrong)
    folder = tmp_path / "segs"
    with dicom_segmentations(folder, model) as add, pytest.raises(NotExported, match="come back"):
        add(make_predicted("a", MASKS, *SHAPE, path=str(source)))
    assert list(folder.iterdir()) == []


def test_what_has_no_segmentation_says_why(
    source: Path,
    tmp_path: Path,
    model: Model,
    make_predicted: Callable,
    make_picture: Callable,
) -> None:
    Image.fromarray(make_picture(*SHAPE)).save(tmp_path / "a.png")
    with dicom_segmentations(tmp_path / "segs", model) as add:
        assert add(make_predicted("a", MASKS, *SHAPE, path=str(tmp_path / "a.png"))) == NO_DICOM
        assert add(make_predicted("b", {}, *SHAPE, path=str(source))) == NOTHING_FOUND
        assert add(make_predicted("c", MASKS, *SHAPE, path=str(source))) is None
    assert [path.name for path in (tmp_path / "segs").iterdir()] == ["c.dcm"]


def test_no_identifier_reaches_an_error_or_a_log(
    tmp_path: Path,
    make_radiograph: Callable,
    make_picture: Callable,
    model: Model,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = make_picture(*SHAPE, kind=np.uint16)
    source = make_radiograph(tmp_path / "s.dcm", pixels, PatientName=CANARY, PatientID=CANARY)

    def failing(*_: object) -> None:
        raise ValueError(CANARY)

    with caplog.at_level(logging.DEBUG):
        write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
        monkeypatch.setattr(dicom_seg, "_compare", failing)
        with pytest.raises(NotExported, match=r"cannot be carried over \(ValueError\)") as caught:
            write_segmentation(tmp_path / "seg.dcm", source, MASKS, model)
    assert CANARY not in str(caught.value) + caplog.text
    assert not [str(warning.message) for warning in recwarn if CANARY in str(warning.message)]
    assert caught.value.__suppress_context__
