"""Reading pictures: every mode of JPEG and PNG, and every way in which a file can be bad."""

import os
import pickle
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.data.decode import (
    REASONS,
    UnreadableInput,
    grey_from_bytes,
    read_grey,
    read_size,
)
from PIL import Image

REAL = Path(__file__).resolve().parents[4] / "shared/data/real_cxr"
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def packed(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of 68 bytes that claims any size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def reason_of(data: bytes, **limits) -> str:
    with pytest.raises(UnreadableInput) as caught:
        grey_from_bytes(data, **limits)
    assert caught.value.reason in REASONS
    return caught.value.reason


def outcome_of(data: bytes) -> str:
    try:
        grey_from_bytes(data)
    except UnreadableInput as refused:
        return refused.reason
    return "read"


def test_grey_png_is_read_as_it_is():
    np.testing.assert_array_equal(grey_from_bytes(packed(Image.fromarray(RAMP))), RAMP)


def test_grey_jpeg_is_read_as_pillow_reads_it():
    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    read = grey_from_bytes(packed(Image.fromarray(smooth), "JPEG", quality=98))
    assert read.shape == (40, 60)
    assert np.abs(read.astype(int) - smooth).max() <= 3


def test_colour_becomes_luma():
    rgb = np.zeros((2, 3, 3), np.uint8)
    rgb[0, 0], rgb[0, 1], rgb[0, 2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert grey_from_bytes(packed(Image.fromarray(rgb)))[0].tolist() == [76, 150, 29]


def test_sixteen_bits_are_scaled_over_their_range_not_cut():
    deep = np.linspace(1000, 5095, 256).astype(np.uint16).reshape(16, 16)
    read = grey_from_bytes(packed(Image.fromarray(deep)))
    assert (read.min(), read.max()) == (0, 255)
    expected = (deep - 1000) / 4095 * 255
    assert np.abs(read - expected).max() <= 0.51


def test_transparency_is_laid_on_black_and_a_useless_alpha_is_ignored():
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[..., 3] = 255
    rgba[0, 0, :3] = 90
    rgba[3, 3, 3] = 0
    read = grey_from_bytes(packed(Image.fromarray(rgba)))
    assert (read[0, 0], read[1, 1], read[3, 3]) == (90, 200, 0)
    rgba[..., 3] = 0
    assert grey_from_bytes(packed(Image.fromarray(rgba)))[3, 3] == 200
    grey_alpha = Image.fromarray(RAMP).convert("LA")
    np.testing.assert_array_equal(grey_from_bytes(packed(grey_alpha)), RAMP)


def test_palette_and_one_bit():
    np.testing.assert_array_equal(grey_from_bytes(packed(Image.fromarray(RAMP).convert("P"))), RAMP)
    bits = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(grey_from_bytes(packed(Image.fromarray(bits))), bits * 255)


def test_the_suffix_is_not_believed(tmp_path):
    path = tmp_path / "view1_frontal.jpg"
    path.write_bytes(packed(Image.fromarray(RAMP)))
    np.testing.assert_array_equal(read_grey(path), RAMP)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_cut_anywhere_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    whole = packed(Image.fromarray(noise), kind)
    for sixteenth in range(16):
        reason = reason_of(whole[: len(whole) * sixteenth // 16])
        assert reason in ("truncated", "format")
        assert sixteenth < 2 or reason == "truncated"


def test_a_bomb_is_refused_before_it_is_decoded():
    for side in (9000, 10_001, 14_000, 65_535):
        bomb = png_claiming(side, side)
        assert len(bomb) < 80
        assert reason_of(bomb, max_pixels=80_000_000) == "too-large"
    assert reason_of(png_claiming(20_000, 20_000)) == "too-large"
    assert reason_of(png_claiming(0, 10)) == "decode"


def test_what_is_inside_decides(tmp_path):
    image = Image.fromarray(RAMP)
    for kind in ("GIF", "TIFF", "BMP"):
        assert reason_of(packed(image, kind)) == "format"
    assert reason_of(packed(image.convert("RGB").convert("CMYK"), "JPEG")) == "format"
    assert reason_of(b"<html>please log in</html>") == "format"
    assert reason_of(b"\x00\x05\x16\x07 AppleDouble") == "format"
    assert reason_of(b"") == "truncated"


def test_flat_images_are_refused():
    assert reason_of(packed(Image.new("L", (5, 5), 7))) == "constant"
    assert reason_of(packed(Image.fromarray(np.full((5, 5), 900, np.uint16)))) == "constant"


def test_damage_is_refused():
    whole = bytearray(packed(Image.fromarray(RAMP)))
    whole[45] ^= 0xFF
    assert reason_of(bytes(whole)) == "decode"


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff" + b"0" * 100)
    cases = {
        "absent.jpg": "missing",
        "large.jpg/inside.jpg": "missing",
        "nul\0.jpg": "missing",
        "x" * 300 + ".jpg": "missing",
        "pipe.jpg": "format",
        "folder.jpg": "format",
        "large.jpg": "too-large",
    }
    for name, reason in cases.items():
        with pytest.raises(UnreadableInput) as caught:
            read_grey(tmp_path / name, max_bytes=50)
        assert caught.value.reason == reason, name


def test_the_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(UnreadableInput("missing", "There is no such file.")))  # noqa: S301
    assert (error.reason, str(error)) == ("missing", "There is no such file.")


def test_random_damage_never_escapes_as_another_error():
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (24, 24)).astype(np.uint8)
    for kind in ("PNG", "JPEG"):
        whole = np.frombuffer(packed(Image.fromarray(noise), kind), np.uint8)
        for _ in range(200):
            broken = whole.copy()
            broken[rng.integers(0, len(whole), 3)] ^= rng.integers(1, 256, 3).astype(np.uint8)
            assert outcome_of(broken.tobytes()) in REASONS + ("read",)


def test_real_radiographs_are_read():
    if not REAL.is_dir():
        pytest.skip("shared/data/real_cxr is not beside the repository")
    files = sorted(REAL.rglob("*.png"))[:4] + sorted(REAL.rglob("*.jpg"))[:6]
    for path in files:
        image = read_grey(path)
        assert image.dtype == np.uint8
        assert image.ndim == 2
        assert image.std() > 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_is_read_from_the_header_alone(kind, tmp_path):
    data = packed(Image.effect_noise((90, 60), 50), kind)
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    assert read_size(path) == (60, 90)
    path.write_bytes(data[:400] + bytes(100_000) + data[-20:])  # what is between is not looked at
    assert read_size(path) == (60, 90)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (packed(Image.effect_noise((90, 60), 50), "PNG")[:-3000], "truncated"),
        (packed(Image.effect_noise((90, 60), 50), "JPEG")[:-900], "truncated"),
        (packed(Image.effect_noise((9, 9), 50), "GIF"), "format"),
        (png_claiming(60_000, 60_000), "too-large"),
    ],
)
def test_what_a_header_leaves_in_doubt_is_decoded(data, reason, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnreadableInput) as caught:
        read_size(tmp_path / "a.png")
    assert caught.value.reason == reason


def test_the_size_of_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UnreadableInput) as caught:
        read_size(tmp_path / "a.png")
    assert caught.value.reason == "missing"
