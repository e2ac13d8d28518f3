"""The rule that picks cases, worked out by hand; and what is drawn of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.evaluation.counts import count_table
from chexseg_platform.report.gallery import Sources, choose, draw

Row = tuple[str, int, int, int]


def counts(*rows: Row, finding: str = "Edema", method: str = "mix", seed: int = 0) -> pa.Table:
    """Rows of (image, truth, prediction, intersection)."""
    common = {"method": method, "seed": seed, "split": "test", "patient": "p"}
    return count_table(
        {
            **common, "finding": finding, "image_id": image, "height": 10, "width": 10,
            "truth": truth, "prediction": prediction, "intersection": both,
        }
        for image, truth, prediction, both in rows
    )  # fmt: skip


def picked(table: pa.Table, seed: int = 0) -> list[tuple[str, str, float, int, int]]:
    found = choose(table, "mix", seed)
    return [(c.place, c.image_id, round(c.iou, 3), c.rank, c.images) for c in found]


FIVE = [("e", 10, 10, 0), ("a", 10, 10, 10), ("d", 10, 10, 5), ("b", 10, 0, 0), ("c", 10, 20, 10)]


def test_first_middle_and_last_by_iou_and_equal_ones_by_image() -> None:
    # IoU: a 1, c 1/2, d 1/3, b and e 0: b before e.
    assert picked(counts(*FIVE)) == [
        ("best", "a", 1.0, 1, 5), ("median", "d", 0.333, 3, 5), ("worst", "e", 0.0, 5, 5),
    ]  # fmt: skip


def test_of_an_even_number_the_better_middle_one() -> None:
    assert [entry[:2] for entry in picked(counts(*FIVE[1:]))] == [
        ("best", "a"), ("median", "c"), ("worst", "b"),
    ]  # fmt: skip


def test_few_images_are_shown_once_each() -> None:
    assert [entry[:2] for entry in picked(counts(*FIVE[:2]))] == [("best", "a"), ("worst", "e")]
    assert [entry[:2] for entry in picked(counts(*FIVE[:1]))] == [("only", "e")]


def test_only_this_method_and_seed_and_images_with_the_finding_count() -> None:
    table = pa.concat_tables(
        [
            counts(("x", 0, 9, 0), ("y", 5, 5, 5)),
            counts(("z", 5, 5, 5), seed=1),
            counts(("z", 5, 5, 5), method="expert only"),
            counts(("w", 0, 9, 0), finding="Fracture"),
        ]
    )
    unread = table.slice(0, 1).set_column(
        table.schema.get_field_index("truth"), table.schema.field("truth"), pa.nulls(1, pa.int64())
    )
    assert [entry[:2] for entry in picked(pa.concat_tables([table, unread]))] == [("only", "y")]


def test_the_best_of_mix_is_the_first_image_it_drew_exactly(made: Any) -> None:
    found = {
        (c.finding, c.place): c for c in choose(made.comparison.table("counts.parquet"), "mix", 0)
    }
    # Squares are moved by as many pixels as there are images before; the first with one is 1.
    best, worst = found["Cardiomegaly", "best"], found["Cardiomegaly", "worst"]
    assert (best.rank, worst.rank) == (1, best.images)
    assert best.iou == pytest.approx(9 / 11)
    assert best.iou > found["Cardiomegaly", "median"].iou > worst.iou


@pytest.fixture
def drawn(made: Any) -> Callable[[float], list[Any]]:
    def cases(peak: float) -> list[Any]:
        table = made.comparison.table("counts.parquet")
        choices = choose(table, "mix", 0)
        heat = {(c.image_id, c.finding): np.full((32, 32), peak) for c in choices}
        masks = made.workspace.find("pseudolabels", "b" * 16)
        sources = Sources(
            "mix", 0, table, made.evaluations["mix", 0], made.dataset, masks, heat if peak else {}
        )
        return draw(sources, choices, side=16, prefix="x")

    return cases


def test_a_case_has_image_truth_prediction_and_saliency(
    drawn: Callable[[float], list[Any]],
) -> None:
    case = next(c for c in drawn(0.5) if c.choice.finding == "Cardiomegaly")
    titles = [tile.title for tile in case.tiles]
    assert titles == ["X-ray", "Experts", "Prediction of mix", "Saliency"]
    share = 100 / (32 * int(case.tiles[0].note.rpartition(" ")[2]))
    assert case.tiles[1].note == f"{100 * share:.1f} % of the image"
    assert case.tiles[2].note == f"IoU {case.choice.iou:.3f}"
    assert "probability 0.25" in case.tiles[3].note
    assert [str(tile.picture).count("data:image/png") for tile in case.tiles] == [1, 0, 0, 1]
    assert all(f'aria-label="{word}' in str(tile.picture) for word, tile in zip(
        ("X-ray patient", "The experts", "Mask of mix", "Saliency of Cardiomegaly"), case.tiles,
        strict=True,
    ))  # fmt: skip


def test_without_a_map_mask_and_peak_are_shown(drawn: Callable[[float], list[Any]]) -> None:
    edema = next(c for c in drawn(0.0) if c.choice.finding == "Edema")
    assert edema.tiles[3].note == "probability 0.25, no pseudo-mask (not allowed)"
    assert "no map" in str(edema.tiles[3].picture)
    assert "data:image" not in str(edema.tiles[3].picture)
