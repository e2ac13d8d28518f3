"""DICOM radiographs: transfer syntaxes, windows, inversion, and hostile or leaking files."""

import logging
import warnings
from io import BytesIO

import numpy as np
import pydicom
import pytest
from chexseg_platform.data.decode import REASONS, UnreadableInput, grey_from_bytes, read_size
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

RAMP = np.linspace(0, 4095, 80 * 70).astype(np.uint16).reshape(80, 70)


def radiograph(pixels=RAMP, syntax=ExplicitVRLittleEndian, **attributes) -> FileDataset:
    """A 12-bit-in-16 radiograph; attributes given by name replace the usual ones."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = min(12, dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def written(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(dataset: Dataset) -> np.ndarray:
    return grey_from_bytes(written(dataset))


def reason_of(data: bytes, **limits) -> str:
    with pytest.raises(UnreadableInput) as caught:
        grey_from_bytes(data, **limits)
    return caught.value.reason


def outcome_of(data: bytes) -> str:
    try:
        grey_from_bytes(data)
    except UnreadableInput as refused:
        return refused.reason
    return "read"


STRETCHED = np.round(RAMP / 4095 * 255)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_twelve_bits_without_a_window_are_stretched(syntax):
    assert np.abs(read(radiograph(syntax=syntax)) - STRETCHED).max() <= 1


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(syntax):
    packed = radiograph()
    try:
        packed.compress(syntax)
    except (RuntimeError, NotImplementedError) as absent:
        pytest.skip(f"no encoder for {syntax.name}: {absent}")
    assert packed.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read(packed), read(radiograph()))


def test_jpeg_baseline_is_read_and_its_size_checked():
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=98)
    packed = radiograph(smooth, syntax=JPEGBaseline8Bit)
    packed.PixelData = encapsulate([buffer.getvalue()])
    packed["PixelData"].VR = "OB"
    stretched = (smooth - smooth.min()) / np.ptp(smooth) * 255.0
    assert np.abs(read(packed) - stretched).max() <= 8
    packed.Rows = 65
    assert reason_of(written(packed)) == "dicom"


def test_monochrome1_is_inverted():
    inverted = read(radiograph(PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 255 - read(radiograph()))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom(function):
    dataset = radiograph(WindowCenter=1500, WindowWidth=1200, VOILUTFunction=function)
    reference = apply_windowing(RAMP, dataset) / 4095 * 255
    assert np.abs(read(dataset) - reference).max() <= 0.51


def test_the_first_of_several_windows_counts():
    several = radiograph(WindowCenter=[1500, 900], WindowWidth=[1200, 60])
    one = radiograph(WindowCenter=1500, WindowWidth=1200)
    np.testing.assert_array_equal(read(several), read(one))


def test_the_window_sees_rescaled_values():
    shifted = radiograph(
        RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=2000, WindowWidth=2400
    )
    plain = radiograph(WindowCenter=1500, WindowWidth=1200)
    assert np.abs(read(shifted).astype(int) - read(plain)).max() <= 1


def test_a_voi_lut_comes_before_a_window():
    table = Dataset()
    table.add_new(0x00283002, "US", [4096, 0, 16])
    table.add_new(0x00283006, "OW", (np.arange(4096) // 2048 * 65535).astype(np.uint16).tobytes())
    dataset = radiograph(VOILUTSequence=[table], WindowCenter=100, WindowWidth=10)
    np.testing.assert_array_equal(read(dataset), np.where(RAMP >= 2048, 255, 0))


def test_signed_values_and_padding():
    signed = RAMP.astype(np.int16) - 1000
    expected = read(radiograph())
    found = read(radiograph(signed, PixelRepresentation=1, BitsStored=16, HighBit=15))
    assert np.abs(found.astype(int) - expected).max() <= 1
    padded = RAMP.copy()
    padded[:5] = 60000
    image = read(radiograph(padded, BitsStored=16, HighBit=15, PixelPaddingValue=60000))
    assert not image[:5].any()
    assert image[5:].max() == 255


def test_colour_becomes_luma():
    rgb = np.zeros((2, 3, 3), np.uint8)
    rgb[0, 0], rgb[0, 1], rgb[0, 2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    dataset = radiograph(rgb, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    dataset.PlanarConfiguration = 0
    dataset.BitsStored, dataset.HighBit = 8, 7
    assert read(dataset)[0].tolist() == [76, 150, 29]


def test_a_file_without_preamble_is_read():
    whole = written(radiograph())
    np.testing.assert_array_equal(grey_from_bytes(whole[132:]), read(radiograph()))
    bare = radiograph(syntax=ImplicitVRLittleEndian)
    bare.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, Dataset(bare), implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(grey_from_bytes(buffer.getvalue()), read(radiograph()))


def test_what_is_no_single_radiograph_is_refused():
    report = radiograph()
    del report.PixelData
    cases = [
        report,
        radiograph(NumberOfFrames=3),
        radiograph(PhotometricInterpretation="PALETTE COLOR"),
        radiograph(BitsAllocated=1),
        radiograph(RescaleSlope=0, RescaleIntercept=0),
        radiograph(WindowCenter=10, WindowWidth=0),
        radiograph(WindowCenter=10, WindowWidth=5, VOILUTFunction="CUBIC"),
    ]
    for dataset in cases:
        assert reason_of(written(dataset)) == "dicom"


def test_large_and_cut_files_are_refused():
    assert reason_of(written(radiograph(Rows=65535, Columns=65535))) == "too-large"
    assert reason_of(written(radiograph(Rows=120, Columns=70))) == "truncated"
    assert reason_of(written(radiograph(Rows=0))) == "decode"
    whole = written(radiograph())
    for sixteenth in range(1, 16):
        assert reason_of(whole[: len(whole) * sixteenth // 16]) in ("truncated", "dicom", "decode")


def test_a_deflated_file_is_refused_before_it_is_inflated():
    bomb = radiograph(np.zeros((4000, 4000), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    packed = written(bomb)
    assert len(packed) < 100_000
    assert reason_of(packed) == "dicom"


def test_a_compressed_stream_larger_than_declared_is_refused():
    packed = radiograph()
    packed.compress(JPEG2000Lossless)
    packed.Rows, packed.Columns = 4, 4
    assert reason_of(written(packed)) == "dicom"
    assert reason_of(written(packed), max_pixels=100) == "too-large"


def test_random_damage_never_escapes_as_another_error():
    rng = np.random.default_rng(3)
    packed = radiograph()
    packed.compress(RLELossless)
    for whole in (written(radiograph()), written(packed)):
        for _ in range(150):
            broken = np.frombuffer(whole, np.uint8).copy()
            at = rng.integers(132, min(len(whole), 900), 2)
            broken[at] = rng.integers(0, 256, 2)
            outcome = outcome_of(broken.tobytes())
            assert outcome in REASONS + ("read",)


def test_no_identifier_reaches_an_error_or_a_log(caplog, recwarn):
    secret = "CANARY4711"
    broken = radiograph(
        PatientName=secret, PatientID=secret, InstitutionName=secret, Rows=120, Columns=70
    )
    broken.add_new(0x00080018, "UI", secret)
    broken.add_new(0x00281050, "DS", "1500")
    broken.add_new(0x00110010, "LO", secret)
    data = written(broken).replace(b"1500", b"C" + secret[-3:].encode())
    caplog.clear()
    recwarn.clear()
    with caplog.at_level(logging.DEBUG), pytest.raises(UnreadableInput) as caught:
        grey_from_bytes(data)
    seen = "".join([str(caught.value), repr(caught.value.__cause__), caplog.text])
    assert secret not in seen
    assert secret[-3:] not in seen
    assert not [str(w.message) for w in recwarn if secret[-3:] in str(w.message)]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_size_is_read_from_the_header_where_there_is_no_doubt(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(written(radiograph()))
    assert read_size(path) == RAMP.shape
    path.write_bytes(written(radiograph())[:-3000])
    with pytest.raises(UnreadableInput) as caught:
        read_size(path)
    assert caught.value.reason == "truncated"
    path.write_bytes(written(radiograph(NumberOfFrames=3)))
    with pytest.raises(UnreadableInput) as caught:
        read_size(path)
    assert caught.value.reason == "dicom"
    path.write_bytes(written(radiograph(syntax=DeflatedExplicitVRLittleEndian)))
    with pytest.raises(UnreadableInput, match="deflated"):
        read_size(path)
