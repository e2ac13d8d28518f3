"""Heat maps from files: pickles that hold arrays and nothing else, names, cuts by hand."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from chexseg_platform.data.masks import decode
from chexseg_platform.evaluation.heatmaps import (
    BrokenHeatMap,
    cut,
    find_heat_maps,
    read_heat_map,
)


def save(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def published(heat: np.ndarray) -> dict[str, object]:
    """What CheXlocalize's pickles hold."""
    return {
        "map": torch.from_numpy(heat.astype(np.float32))[None, None],
        "prob": np.float32(0.75),
        "task": "Edema",
        "gt": 1,
        "cxr_img": torch.zeros(3, 4, 4),
        "cxr_dims": (30, 20),
    }


def test_a_published_pickle_is_read(tmp_path: Path) -> None:
    heat = np.arange(12.0).reshape(3, 4)
    found = read_heat_map(save(tmp_path / "a_Edema_map.pkl", published(heat)))
    np.testing.assert_array_equal(found.map_hw, heat)
    assert found.size == (20, 30)


def test_arrays_and_npy_files_are_read(tmp_path: Path) -> None:
    heat = np.arange(6.0).reshape(2, 3)
    pickled = read_heat_map(save(tmp_path / "a_Edema_map.pkl", {"map": heat}))
    np.save(tmp_path / "b_Edema_map.npy", heat)
    for found in (pickled, read_heat_map(tmp_path / "b_Edema_map.npy")):
        np.testing.assert_array_equal(found.map_hw, heat)
        assert found.size is None


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({"map": "text"}),
                pickle.dumps({"map": np.zeros((2, 3, 4))}), pickle.dumps({"map": np.zeros(0)}),
                pickle.dumps({"map": np.zeros((0, 2))}),
                pickle.dumps({"map": np.full((2, 2), 1e300)}),
                pickle.dumps({"map": np.eye(2), "cxr_dims": (-5, 10)}),
                pickle.dumps({"map": np.eye(2), "cxr_dims": (40_000, 60_000)}),
                pickle.dumps({"map": np.eye(2), "cxr_dims": (3.5, 10)})]
)  # fmt: skip
def test_what_is_no_heat_map_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a_Edema_map.pkl").write_bytes(content)
    with pytest.raises(BrokenHeatMap, match="a_Edema_map"):
        read_heat_map(tmp_path / "a_Edema_map.pkl")


def test_files_are_found_by_image_and_named_findings(tmp_path: Path) -> None:
    for name in ("p1_study1_view1_frontal_Airspace Opacity", "p1_study1_view1_frontal_Edema",
                 "p1_study1_view1_frontal_Fracture"):  # fmt: skip
        (tmp_path / f"{name}_map.pkl").touch()
    (tmp_path / "p1_study1_view1_frontal_Edema.npy").touch()
    files = find_heat_maps(tmp_path)
    found = [key[1:] for key in files.maps]
    assert files.others == [
        "p1_study1_view1_frontal_Edema.npy", "p1_study1_view1_frontal_Fracture_map.pkl",
    ]  # fmt: skip
    image_id = "p1_study1_view1_frontal"
    assert found == [(image_id, "Edema"), (image_id, "Lung Opacity")]
    (tmp_path / "p1_study1_view1_frontal_Lung Opacity_map.npy").touch()
    with pytest.raises(BrokenHeatMap, match="another map of Lung Opacity"):
        find_heat_maps(tmp_path)


def test_a_folder_without_maps_and_a_name_that_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(BrokenHeatMap, match="no heat maps"):
        find_heat_maps(tmp_path)
    (tmp_path / "a_Edemma_map.pkl").touch()
    with pytest.raises(BrokenHeatMap, match="Edema"):
        find_heat_maps(tmp_path)


def test_a_map_is_cut_at_its_images_size() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 5.0
    found = cut(heat, 4, 4, None)
    assert found.peak == (1, 2)
    np.testing.assert_array_equal(decode(found.counts, 4, 4), heat > 0)
    # Levels are rounded down and foreground is above: 0.5 of the range is level 127.
    halves = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert decode(cut(halves, 1, 3, 0.5).counts, 1, 3).tolist() == [[False, False, True]]
    assert decode(cut(halves, 1, 3, 0.49).counts, 1, 3).tolist() == [[False, True, True]]
    doubled = cut(np.array([[0, 1]], np.float32), 2, 4, 0.5)
    assert decode(doubled.counts, 2, 4).tolist() == [[False, False, True, True]] * 2


def test_a_flat_map_is_empty_and_nan_is_refused(tmp_path: Path) -> None:
    flat = cut(np.ones((3, 3), np.float32), 6, 6, None)
    assert (flat.counts, flat.flat) == (None, True)
    np.save(tmp_path / "a_Edema_map.npy", np.full((3, 3), np.nan))
    with pytest.raises(BrokenHeatMap, match="NaN or infinite"):
        read_heat_map(tmp_path / "a_Edema_map.npy")
