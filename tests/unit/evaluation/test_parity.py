"""CheXlocalize's numbers: a plain reading of its rules on decoded masks is the reference."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from chexseg_platform.data.entries import MaskSet
from chexseg_platform.data.masks import decode, encode
from chexseg_platform.evaluation import parity
from chexseg_platform.evaluation.counts import CountCube, cube
from chexseg_platform.evaluation.files import Predicted, Truth
from chexseg_platform.evaluation.matching import count_files
from chexseg_platform.findings import CHEXLOCALIZE_NAMES, FINDINGS

SHAPE = (14, 11)
NAMES = tuple(sorted(CHEXLOCALIZE_NAMES.values()))


def drawn(rng: np.random.Generator, image_ids: list[str], share: float) -> dict[str, MaskSet]:
    out = {}
    for image_id in image_ids:
        some = [name for name in FINDINGS if rng.random() < share]
        masks = {name: rng.random(SHAPE) < rng.random() for name in some}
        out[image_id] = MaskSet(*SHAPE, {n: encode(m) for n, m in masks.items() if m.any()})
    return out


@pytest.fixture(scope="module")
def files() -> tuple[dict[str, MaskSet], dict[str, MaskSet], CountCube]:
    """Truth of 23 images; predictions of 20 of them and of 5 others. Lung Lesion is rare."""
    rng = np.random.default_rng(8)
    ids = [f"patient{i:05d}_study1_view1_frontal" for i in rng.permutation(28)]
    truth, prediction = drawn(rng, ids[:23], 0.5), drawn(rng, ids[3:], 0.6)
    for masks in (*truth.values(), *prediction.values()):
        masks.counts.pop("Lung Lesion", None)
    for reader in (truth, prediction):
        reader[ids[5]].counts["Lung Lesion"] = encode(rng.random(SHAPE) < 0.5)
    table, _ = count_files(Truth(truth), {"mine": Predicted(prediction)})
    return truth, prediction, cube(table)


def plain_iou(truth: MaskSet | None, prediction: MaskSet | None, finding: str) -> tuple:
    masks = [
        np.zeros(SHAPE, bool)
        if one is None or finding not in one.counts
        else decode(one.counts[finding], *SHAPE)
        for one in (truth, prediction)
    ]
    union = np.logical_or(*masks).sum()
    value = np.logical_and(*masks).sum() / union if union else np.nan
    return value, masks[0].any() and masks[1].any()


def reference(truth, prediction, true_positives: bool) -> pd.DataFrame:
    rows = sorted(truth) if true_positives else sorted({*truth, *prediction})
    table = {}
    for finding, name in CHEXLOCALIZE_NAMES.items():
        found = [plain_iou(truth.get(i), prediction.get(i), finding) for i in rows]
        table[name] = [v if both or not true_positives else np.nan for v, both in found]
    return pd.DataFrame(table, index=rows)[list(NAMES)]


@pytest.mark.parametrize(("what", "slice_"), [("iou_true_positives", True), ("iou_union", False)])
def test_values_of_images_are_exact(files, what, slice_) -> None:
    truth, prediction, whole = files
    found = parity.per_image(whole, "mine", what, set(truth), prediction.keys())
    expected = reference(truth, prediction, slice_)
    assert (found.image_ids, found.names) == (tuple(expected.index), NAMES)
    np.testing.assert_array_equal(found.values, expected.to_numpy())


@pytest.mark.parametrize(("what", "slice_"), [("iou_true_positives", True), ("iou_union", False)])
def test_intervals_are_those_of_the_same_draw(files, what, slice_) -> None:
    truth, prediction, whole = files
    found = parity.per_image(whole, "mine", what, set(truth), prediction.keys())
    means = parity.resampled_means(found.values)
    frame = reference(truth, prediction, slice_)
    np.random.seed(0)
    plain = pd.DataFrame(
        [
            frame.iloc[np.random.choice(len(frame), size=len(frame), replace=True)].mean()
            for _ in range(1000)
        ]
    )
    np.testing.assert_allclose(means, plain.to_numpy(), rtol=0, atol=1e-12)
    for line in parity.summarise(found.names, means):
        ordered = plain[line.name].sort_values()
        ends = ordered.iloc[24], ordered.iloc[974]
        np.testing.assert_allclose((line.lower, line.upper), ends, rtol=0, atol=1e-12)
        np.testing.assert_allclose(line.mean, ordered.mean(), rtol=0, atol=1e-12)
    # The rare finding is missing from many resamples: they come last, as the script sorts them.
    assert plain["Lung Lesion"].isna().sum() > 25
    assert np.isnan(parity.summarise(found.names, means)[NAMES.index("Lung Lesion")].upper)


def test_other_methods_and_a_table_change_nothing(files) -> None:
    truth, prediction, whole = files
    own = prediction.keys()
    alone = parity.per_image(whole, "mine", "iou_union", set(truth), own)
    beyond = {"patient99999_study1_view1_frontal": MaskSet(*SHAPE, {})}
    other = Predicted({**truth, **beyond})
    positive = set(prediction) - set(truth)
    table, _ = count_files(
        Truth(truth, positive=positive), {"mine": Predicted(prediction), "other": other}
    )
    again = parity.per_image(cube(table), "mine", "iou_union", set(truth), own)
    assert again.image_ids == alone.image_ids
    np.testing.assert_array_equal(again.values, alone.values)


def test_hits_follow_the_maximum_and_readers_their_points() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3:6, 2:5] = True
    there, nowhere = MaskSet(*SHAPE, {"Edema": encode(mask)}), MaskSet(*SHAPE, {})
    truth = Truth({"a": there, "b": nowhere, "c": there, "d": there})
    peaks = {"a": {"Edema": (3, 2)}, "b": {"Edema": (3, 2)}, "c": {"Edema": (6, 2)}, "d": {}}
    mine = Predicted(dict.fromkeys("abcd", nowhere), peaks=peaks)
    points = {"a": {"Edema": [(0, 0), (2.9, 3.2)]}, "b": {"Edema": [(2, 3)]}}
    readers = Predicted({"a": there, "b": nowhere, "d": there})
    table, _ = count_files(truth, {"mine": mine}, readers=readers, points=points)
    whole = cube(table)
    edema = NAMES.index("Edema")
    for method, expected in (("mine", [1, None, 0, None]), ("radiologists", [1, None, 0, 0])):
        found = parity.per_image(whole, method, "hitmiss", set(truth.masks))
        column = [None if np.isnan(v) else v for v in found.values[:, edema]]
        assert column == expected, method
    # Image c has no masks of the readers, yet a reader without a point missed.


def test_tables_hold_its_columns_and_three_digits() -> None:
    found = parity.PerImage(("i",), ("Airspace Opacity",), np.array([[np.nan]]))
    assert parity.rows_per_image(found) == [{"Airspace Opacity": None, "img_id": "i"}]
    line = parity.Summary("Edema", 0.12345, 0.5, float("nan"))
    assert parity.rows_of_summary([line]) == [
        {"name": "Edema", "lower": 0.123, "mean": 0.5, "upper": None}
    ]
