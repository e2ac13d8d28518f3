"""Masks as PNG files, and the pictures of findings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.findings import FINDINGS
from chexseg_platform.prediction.pictures import mask_pictures, overlay_pictures
from chexseg_platform.prediction.predicted import NotExported
from PIL import Image

BOX = np.zeros((6, 4), bool)
BOX[2:5, 1:3] = True


def test_every_finding_has_a_mask_of_0_and_255(tmp_path: Path, make_predicted: Callable) -> None:
    with mask_pictures(tmp_path, FINDINGS) as add:
        add(make_predicted("a", {"Pleural Effusion": BOX}))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(f"{name.replace(' ', '_')}.png" for name in FINDINGS)
    for name in files:
        with Image.open(tmp_path / "a" / name) as image:
            assert (image.mode, image.size) == ("L", (4, 6))
            expected = BOX if name == "Pleural_Effusion.png" else np.zeros_like(BOX)
            np.testing.assert_array_equal(np.asarray(image), expected * np.uint8(255))


def test_no_name_leaves_its_folder_or_takes_anothers_file(
    tmp_path: Path, make_predicted: Callable
) -> None:
    drawn = {"../x": BOX, "a/b": ~BOX, "a b": BOX, "..": ~BOX}
    with mask_pictures(tmp_path / "masks", [*drawn, "A_B"]) as add:
        add(make_predicted("i", drawn))
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]
    expected = {"__.png": ~BOX, "___x.png": BOX, "a_b.png": ~BOX, "a_b_2.png": BOX}
    expected["A_B_3.png"] = np.zeros_like(BOX)
    files = {path.name: path for path in (tmp_path / "masks" / "i").iterdir()}
    assert files.keys() == expected.keys()
    for name, mask in expected.items():
        np.testing.assert_array_equal(np.asarray(Image.open(files[name])) == 255, mask)


@pytest.mark.parametrize("shape", [(6, 4), (40, 900), (900, 40)])
def test_a_picture_of_any_image(
    tmp_path: Path, make_predicted: Callable, make_picture: Callable, shape: tuple[int, int]
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(make_picture(*shape)).save(path)
    mask = np.zeros(shape, bool)
    mask[2:5, 1:3] = True
    with overlay_pictures(tmp_path / "overlays", FINDINGS) as add:
        add(make_predicted("a $_{x", {"Edema": mask}, *shape, path=str(path)))
        add(make_predicted("none", {}, *shape, path=str(path)))
    for name in ("a $_{x", "none"):
        with Image.open(tmp_path / "overlays" / f"{name}.png") as image:
            assert image.size[0] > 400


def test_a_picture_of_any_names(
    tmp_path: Path, make_predicted: Callable, make_picture: Callable
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(make_picture(6, 4)).save(path)
    drawn = {"$\\frac$ $x": BOX, "_b": BOX, "long " * 50: BOX, "<b>": ~BOX}
    with overlay_pictures(tmp_path / "overlays", list(drawn)) as add:
        add(make_predicted("a", drawn, path=str(path)))
    assert [file.name for file in (tmp_path / "overlays").iterdir()] == ["a.png"]


def test_an_image_that_went_away_is_no_crash(tmp_path: Path, make_predicted: Callable) -> None:
    with (
        overlay_pictures(tmp_path, FINDINGS) as add,
        pytest.raises(NotExported, match="no such file"),
    ):
        add(make_predicted("a", {}, path=str(tmp_path / "gone.png")))
