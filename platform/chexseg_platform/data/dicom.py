"""One DICOM radiograph to 8-bit grey.

Only the pixel module and what is needed to display it are read at all: the list below is the
whole of what this module can see, so names, dates and identifiers cannot reach an array, a
table, a log or an error message. Errors name the attribute, never quote pydicom's own text,
which may hold a value from the file.

Stored values pass the modality transform (rescale), then the VOI transform (a VOI LUT, else the
first window), as PS3.3 C.11 sets out; without either, their range is stretched. MONOCHROME1,
where low values are white, is inverted at the end.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from chexseg_platform.data.decode import (
    Grey,
    UnreadableInput,
    check_pixels,
    luma,
    scale_to_8_bits,
)

ATTRIBUTES = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)
"""The attributes that are read; everything else in a file is skipped."""


def decode_dicom(data: bytes, *, max_pixels: int) -> Grey:
    """Decode the bytes of a DICOM file to uint8, H x W.

    Raises:
        UnreadableInput: "dicom" (no pixels, several frames, a palette, impossible attributes),
            "too-large", "truncated" or "decode".
    """
    try:
        with quiet():
            return _decode(data, max_pixels)
    except (UnreadableInput, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:
        # pydicom and its plugins raise many types, and a panic in one written in Rust is not
        # even an Exception. Their text may quote the file, so it goes no further.
        raise UnreadableInput(
            "decode", f"The DICOM file is damaged ({type(problem).__name__}): fetch it again."
        ) from None


def header_size(head: bytes, stream: IO[bytes]) -> tuple[int, int] | None:
    """Return height and width of an open DICOM file; None where its header leaves a doubt.

    Args:
        head: the file's first bytes.
    """
    if DeflatedExplicitVRLittleEndian.encode() in head:
        return None
    stream.seek(0)
    with quiet():
        dataset = pydicom.dcmread(
            stream, force=True, stop_before_pixels=True, specific_tags=list(ATTRIBUTES)
        )
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    pixels = rows * columns * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated) // 8
    cut = not dataset.file_meta.TransferSyntaxUID.is_compressed and stream.seek(0, 2) < pixels
    if cut or int(dataset.get("NumberOfFrames") or 1) != 1:
        return None
    return rows, columns


def _decode(data: bytes, max_pixels: int) -> Grey:
    if DeflatedExplicitVRLittleEndian.encode() in data:
        # It would be inflated whole, without a limit, before anything can be checked.
        raise _refused("is deflated: convert it to another transfer syntax")
    dataset = pydicom.dcmread(BytesIO(data), force=True, specific_tags=list(ATTRIBUTES))
    _supply_transfer_syntax(dataset)
    _check(dataset, max_pixels)
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        # pylibjpeg's RLE decoder panics on damaged data and writes a backtrace to the terminal.
        dataset.pixel_array_options(decoding_plugin="pydicom")
    stored = dataset.pixel_array
    if dataset.SamplesPerPixel == 3:
        return scale_to_8_bits(luma(_rgb(dataset, stored)), 0, 2**dataset.BitsStored - 1)
    grey = _displayed(stored, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    padding = _padding(dataset, stored)
    return grey if padding is None else np.where(padding, np.uint8(0), grey)


def _check(dataset: Any, max_pixels: int) -> None:
    if "PixelData" not in dataset:
        raise _refused("holds no pixels: it is a report or another object")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise _refused("holds several frames: a radiograph has one")
    check_pixels(int(dataset.Rows), int(dataset.Columns), max_pixels)
    kind = str(dataset.PhotometricInterpretation)
    allowed = {1: ("MONOCHROME1", "MONOCHROME2"), 3: ("RGB", "YBR_FULL", "YBR_FULL_422")}
    lossy = ("YBR_ICT", "YBR_RCT")
    samples = int(dataset.SamplesPerPixel)
    if kind not in allowed.get(samples, ()) + (lossy if samples == 3 else ()):
        raise _refused("has a palette or another photometric interpretation that is not read")
    if dataset.BitsAllocated not in (8, 16, 32):
        raise _refused(f"has {int(dataset.BitsAllocated)} bits a pixel; 8, 16 and 32 are read")
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if not all(math.isfinite(float(x)) for x in (slope or 1, intercept or 0)) or slope == 0:
        raise _refused("has an impossible rescale slope or intercept")
    _check_frame(dataset, max_pixels)


def _check_frame(dataset: Any, max_pixels: int) -> None:
    """Compare the pixel data with the declared size before a decoder trusts either."""
    syntax = dataset.file_meta.TransferSyntaxUID
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not syntax.is_encapsulated:
        values = rows * columns * int(dataset.SamplesPerPixel)
        subsampled = dataset.PhotometricInterpretation == "YBR_FULL_422"
        expected = values * int(dataset.BitsAllocated) // (12 if subsampled else 8)
        if len(dataset.PixelData) < expected:
            raise UnreadableInput("truncated", "The DICOM file is cut short: fetch it again.")
        return
    if syntax == RLELossless:
        return
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    size = _codestream_size(frame)
    if size is None:
        raise UnreadableInput("decode", "The compressed pixels have no header: fetch it again.")
    check_pixels(*size, max_pixels)
    if size != (rows, columns):
        raise _refused("declares another size than its compressed pixels have")


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Return (height, width) as a JPEG, JPEG-LS or JPEG 2000 stream states it."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left
    at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        frame_header = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if frame_header or marker == 0xF7:
            height, width = struct.unpack_from(">2H", frame, at + 5)
            return height, width
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _displayed(stored: NDArray, dataset: Any) -> Grey:
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        shown = apply_voi(values.astype(np.int64), dataset)
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return scale_to_8_bits(shown, 0, max(2**bits - 1, float(shown.max())))
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is not None and width is not None:
        return _windowed(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
    real = values[~padding] if (padding := _padding(dataset, stored)) is not None else values
    if real.size == 0:
        return np.zeros(stored.shape, np.uint8)
    return scale_to_8_bits(values, float(real.min()), float(real.max()))


def _windowed(values: NDArray, center: float, width: float, function: str) -> Grey:
    """Apply one window (PS3.3 C.11.2.1.2 and C.11.2.1.3); its ends become 0 and 255."""
    if not (math.isfinite(center) and math.isfinite(width)):
        raise _refused("has a window that is not a number")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise _refused("has a window of no width")
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values.astype(np.float32) - center) / width, -60, 60)
        return scale_to_8_bits(1 / (1 + np.exp(exponent)), 0, 1)
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise _refused("has an unknown VOI LUT function")
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(values > center, np.uint8(255), np.uint8(0))
    return scale_to_8_bits(values, center - width / 2, center + width / 2)


def _padding(dataset: Any, stored: NDArray) -> NDArray[np.bool_] | None:
    """Return where a detector wrote "no value here", or None where it wrote none."""
    value = _first(dataset.get("PixelPaddingValue"))
    if value is None:
        return None
    padding = stored == value
    return padding if padding.any() else None


def _rgb(dataset: Any, stored: NDArray) -> NDArray:
    if str(dataset.PhotometricInterpretation).startswith("YBR_FULL"):
        return pydicom.pixels.convert_color_space(stored, "YBR_FULL", "RGB")
    return stored


def _first(value: Any) -> float | None:
    """Return the first of one or several numbers, or None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, (str, int, float)):
        return float(value)
    values = list(value)
    return float(values[0]) if values else None


def _supply_transfer_syntax(dataset: Any) -> None:
    """Name the transfer syntax of a file without header, as pydicom found it while reading."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _refused(what: str) -> UnreadableInput:
    return UnreadableInput("dicom", f"The DICOM file {what}.")


@contextmanager
def quiet(*others: str) -> Iterator[None]:
    """Keep pydicom from warning or logging, since its messages quote values from the file.

    Args:
        others: names of further loggers to silence.
    """
    levels = {name: logging.getLogger(name).level for name in ("pydicom", *others)}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
