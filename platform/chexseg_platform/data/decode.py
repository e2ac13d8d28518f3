"""Image files to 8-bit grey: JPEG, PNG and DICOM, told apart by content, never by suffix.

A collection of a quarter of a million files holds some that are cut short, misnamed or made to
exhaust memory. Every way in which a file can fail ends here in one error with a reason code, so
that a run lists it and goes on. Limits are checked on what a file claims before anything of
that size is allocated, pixels are always decoded to the end (a header alone proves nothing),
and only decoders of the format that was recognised may look at the bytes.

Pixels keep the order they are stored in: an EXIF orientation is not applied, as the tools that
drew CheXlocalize's masks did not apply it either.
"""

from __future__ import annotations

import os
import stat
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 100_000_000
MAX_BYTES = 512 * 2**20
_END = 4096
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "F", "I;16")

JSRT_SIDE, JSRT_LEVELS = 2048, 4096

REASONS = ("missing", "truncated", "format", "constant", "too-large", "dicom", "decode", "mask")
"""Reason codes of `UnreadableInput`, as they appear in the table of rejected inputs."""

_OTHER_FORMATS = {
    b"GIF8": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"\x00\x05\x16\x07": "macOS resource (its name starts with '._')",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"version https://git-lfs": "Git LFS pointer",
    b"<": "HTML or XML",
}

Grey = NDArray[np.uint8]


class UnreadableInput(ValueError):
    """An input that cannot be used; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, str(self))


def read_grey(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Grey:
    """Read one image file as grey: uint8, H x W, 0 is black (air), 255 is white (bone).

    Colour becomes luma. More than 8 bits are scaled over the range of their values; DICOM goes
    through its rescale and its VOI LUT or first window, and MONOCHROME1 is inverted.

    Raises:
        UnreadableInput: with `reason` "missing", "truncated" (cut short), "format" (no JPEG,
            PNG or DICOM), "constant" (all pixels equal), "too-large", "dicom" (a DICOM object
            that is no single radiograph) or "decode" (damaged). The message never holds text
            from inside the file.
    """
    return grey_from_bytes(_read_bytes(Path(path), max_bytes), max_pixels=max_pixels)


def read_jsrt(path: str | Path) -> Grey:
    """Read an image of the JSRT database: uint8, 2048 x 2048, 0 is black (air).

    The file has no header: big-endian 16-bit numbers below 4096, row by row, of which the highest
    is the darkest film.

    Raises:
        UnreadableInput: as `read_grey`; "truncated" or "decode" for a file of another length.
    """
    data = _read_bytes(Path(path), MAX_BYTES)
    wanted = 2 * JSRT_SIDE**2
    if len(data) != wanted:
        raise UnreadableInput(
            "truncated" if len(data) < wanted else "decode",
            f"The file has {len(data):,} bytes; an image of JSRT has {wanted:,}: fetch it again.",
        )
    values = np.frombuffer(data, ">u2").reshape(JSRT_SIDE, JSRT_SIDE)
    if values.max() >= JSRT_LEVELS:
        raise UnreadableInput(
            "decode",
            f"A pixel has the value {values.max():,}; those of JSRT are below {JSRT_LEVELS:,}: "
            "this is another image, or its bytes were swapped.",
        )
    image = ((JSRT_LEVELS - 1 - values) >> 4).astype(np.uint8)
    if image.min() == image.max():
        raise UnreadableInput("constant", "Every pixel has the same value: there is no picture.")
    return image


def read_size(path: str | Path) -> tuple[int, int]:
    """Return an image file's height and width from its header where that tells them for certain.

    Damage inside a file whose two ends are sound is not seen; in any doubt the file is decoded.

    Raises:
        UnreadableInput: as `read_grey`.
    """
    size = _header_size(Path(path))
    if size is None:
        height, width = read_grey(path).shape
        size = height, width
    return size


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        with open(path, "rb") as stream:
            head = stream.read(_END)
            kind = sniff(head)
            if kind == "DICOM":
                from chexseg_platform.data.dicom import header_size

                return header_size(head, stream)
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _END))
            if _cut_short(stream.read(), kind):
                return None
            stream.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with Image.open(stream, formats=[kind]) as image:
                    known = image.mode in _MODES
                    return (image.height, image.width) if known else None
    except Exception:  # whatever it is, decoding says it better
        return None


def grey_from_bytes(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Grey:
    """Decode the content of an image file; otherwise as `read_grey`."""
    kind = sniff(data)
    if kind == "DICOM":
        from chexseg_platform.data.dicom import decode_dicom

        image = decode_dicom(data, max_pixels=max_pixels)
    else:
        image = _decode_picture(data, kind, max_pixels)
    if image.min() == image.max():
        raise UnreadableInput("constant", "Every pixel has the same value: there is no picture.")
    return image


def sniff(data: bytes) -> str:
    """Return "JPEG", "PNG" or "DICOM" from the first bytes of a file.

    Raises:
        UnreadableInput: "truncated" for an empty file, "format" for anything else.
    """
    if not data:
        raise UnreadableInput("truncated", "The file is empty: fetch it again.")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[128:132] == b"DICM" or _starts_like_dicom(data):
        return "DICOM"
    found = next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), None)
    what = f"The content is {found}" if found else "The content is of an unknown format"
    raise UnreadableInput("format", f"{what}; only JPEG, PNG and DICOM are read.")


def scale_to_8_bits(values: NDArray, low: float, high: float) -> Grey:
    """Map `low`..`high` linearly to 0..255, rounding to nearest; values beyond are clipped."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return (np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)


def luma(rgb_HW3: NDArray) -> NDArray[np.float32]:
    """Return the brightness of RGB as ITU-R BT.601 defines it (float32, H x W)."""
    return rgb_HW3.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Refuse a declared size before anything of that size is allocated."""
    if height < 1 or width < 1:
        raise UnreadableInput("decode", f"The file claims an image of {height} x {width} pixels.")
    if height * width > max_pixels:
        raise UnreadableInput(
            "too-large",
            f"The file claims {height} x {width} pixels, more than the {max_pixels:,} allowed.",
        )


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise UnreadableInput("format", "This is not a regular file.")
        if state.st_size > max_bytes:
            raise UnreadableInput(
                "too-large",
                f"The file has {state.st_size:,} bytes, more than the {max_bytes:,} allowed.",
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableInput("missing", "There is no such file.") from None
    except (OSError, ValueError) as problem:
        if isinstance(problem, UnreadableInput):
            raise
        why = getattr(problem, "strerror", None) or type(problem).__name__
        raise UnreadableInput("missing", f"The file cannot be opened: {why}.") from None


def _starts_like_dicom(data: bytes) -> bool:
    """Tell a DICOM file without preamble: it starts with an element of group 2 or 8."""
    if len(data) < 16 or data[:2] not in (b"\x02\x00", b"\x08\x00") or data[3] != 0:
        return False
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    return explicit or int.from_bytes(data[4:8], "little") <= 64


def _decode_picture(data: bytes, kind: str, max_pixels: int) -> Grey:
    try:
        with warnings.catch_warnings():
            # A warning about an image is a doubt about its pixels. Only Pillow's warning about
            # size is left out, for our own limit is checked right after.
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=[kind]) as image:
                check_pixels(image.height, image.width, max_pixels)
                image.load()
                return _grey(image)
    except UnreadableInput:
        raise
    except Image.DecompressionBombError:
        raise UnreadableInput("too-large", "The file claims an absurdly large image.") from None
    except Exception as problem:
        if _cut_short(data, kind):
            raise UnreadableInput(
                "truncated", f"The {kind} file is cut short: fetch it again."
            ) from None
        raise UnreadableInput(
            "decode", f"The {kind} file is damaged ({type(problem).__name__}): fetch it again."
        ) from None


def _cut_short(data: bytes, kind: str) -> bool:
    return (b"\xff\xd9" if kind == "JPEG" else b"IEND") not in data[-_END:]


def _grey(image: Image.Image) -> Grey:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return scale_to_8_bits(values, float(values.min()), float(values.max()))
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "RGBA"):
        return _composite(image)
    if image.mode in ("1", "L", "RGB"):
        return np.array(image.convert("L"))
    raise UnreadableInput("format", f"Pixels are {image.mode}: convert the file to grey or RGB.")


def _composite(image: Image.Image) -> Grey:
    """Lay a picture with transparency on black; an alpha of one value only is ignored."""
    alpha = np.array(image.getchannel("A"), np.float32) / 255
    grey = np.array(image.convert("RGB").convert("L"))
    if alpha.min() == alpha.max():
        return grey
    return (grey * alpha + 0.5).astype(np.uint8)
