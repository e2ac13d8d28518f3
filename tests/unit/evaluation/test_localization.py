"""The localization check, by hand on a frame of 4 x 4."""

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.data.masks import encode
from chexseg_platform.evaluation.localization import Located, lines, locate

SIZE = 4
ALL = {"a": 16, "b": 16}


def mask(*cells: tuple[int, int]) -> str:
    drawn = np.zeros((SIZE, SIZE), bool)
    for cell in cells:
        drawn[cell] = True
    return encode(drawn)


def rows(*items: tuple[str, str, str | None, tuple[int, int] | None]) -> pa.Table:
    ids, findings, counts, peaks = zip(*items, strict=True)
    return pa.table(
        {
            "image_id": list(ids),
            "finding": list(findings),
            "counts": pa.array(counts, pa.string()),
            "peak_row": pa.array([p and p[0] for p in peaks], pa.int16()),
            "peak_column": pa.array([p and p[1] for p in peaks], pa.int16()),
        }
    )


def test_by_hand() -> None:
    drawn = {
        "a": {"Edema": mask((0, 0), (0, 1)), "Atelectasis": mask()},
        "b": {"Edema": mask((3, 3))},
        "c": {},
    }
    table = rows(
        ("a", "Edema", mask((0, 1), (0, 2)), (0, 1)),  # a hit; one of three cells shared
        ("b", "Edema", None, None),  # no map, no mask
        ("a", "Atelectasis", mask((1, 1)), (1, 1)),  # nothing was drawn: no part in it
        ("c", "Edema", mask((1, 1)), (1, 1)),
        ("unread", "Edema", mask((1, 1)), (1, 1)),
    )
    (found,) = locate(table, drawn, {"a": 16, "b": 8, "c": 16}, SIZE)
    assert found == Located(
        "Edema",
        images=2,
        hit=0.5,
        chance=(2 / 16 + 1 / 8) / 2,
        iou=(1 / 3 + 0) / 2,
        pooled=1 / 4,
        precision=1 / 3,  # of two cells on a and one on c, where nothing is drawn
        recall=1 / 3,  # of two cells on a and one on b
    )


def test_no_mask_at_all_has_no_precision() -> None:
    (found,) = locate(rows(("a", "Edema", None, (0, 0))), {"a": {"Edema": mask((0, 0))}}, ALL, SIZE)
    assert (found.precision, found.recall, found.hit) == (None, 0.0, 1.0)


def test_classes_say_what_is_compared_and_in_which_order() -> None:
    drawn = {
        "a": {"Pneumonia": mask((0, 0)), "Edema": mask((1, 1)), "Fracture": mask((2, 2))},
        "b": {"Edema": mask((1, 1))},
    }
    table = rows(
        ("a", "Fracture", mask((2, 2)), (2, 2)),
        ("a", "Edema", mask((1, 1)), (1, 1)),
        ("a", "Pneumonia", mask((0, 0)), (0, 0)),
        ("b", "Pneumonia", mask((0, 0)), (0, 0)),  # of it b's expert says nothing
        ("b", "Edema", None, None),
    )
    found = locate(table, drawn, ALL, SIZE, ("Pneumonia", "Fracture", "Edema", "Pleural Other"))
    assert [(item.finding, item.images, item.precision, item.recall) for item in found] == [
        ("Pneumonia", 1, 1.0, 1.0),
        ("Fracture", 1, 1.0, 1.0),
        ("Edema", 2, 1.0, 0.5),
    ]
    assert [item.finding for item in locate(table, drawn, ALL, SIZE)] == ["Edema"]


def test_findings_come_in_their_order() -> None:
    drawn = {"a": {"Edema": mask((0, 0)), "Cardiomegaly": mask((1, 1))}}
    table = rows(("a", "Edema", None, (0, 0)), ("a", "Cardiomegaly", mask((1, 1)), (2, 2)))
    first, second = locate(table, drawn, {"a": 16}, SIZE)
    assert (first.finding, first.hit, first.iou) == ("Cardiomegaly", 0.0, 1.0)
    assert (second.finding, second.hit, second.iou) == ("Edema", 1.0, 0.0)


def test_the_table_ends_with_means() -> None:
    items = [
        {"finding": "Edema", "images": 2, "hit": 1.0, "chance": 0.1, "iou": 0.2, "pooled": 0.4},
        {"finding": "Fracture", "images": 1, "hit": 0.0, "chance": 0.3, "iou": 0.4, "pooled": 0.0},
    ]
    assert [line.split() for line in lines(items)[1:]] == [
        ["Edema", "2", "1.000", ".100", ".200", ".400"],
        ["Fracture", "1", ".000", ".300", ".400", ".000"],
        ["Mean", ".500", ".200", ".300", ".200"],
    ]
    assert lines([]) == []


def test_more_columns_are_given_when_asked_for() -> None:
    shared = {"images": 1, "hit": 1.0, "chance": 0.1, "iou": 0.2, "pooled": 0.4}
    items = [
        shared | {"finding": "Edema", "precision": 0.5, "recall": 0.25},
        shared | {"finding": "Fracture", "precision": None, "recall": 0.0},
    ]
    assert [line.split()[-2:] for line in lines(items, more=True)] == [
        ["precision", "recall"],
        [".500", ".250"],
        ["–", ".000"],
        [".500", ".125"],
    ]
    assert lines(items)[0].split()[-1] == "pooled"


def test_an_unread_data_set_gives_nothing() -> None:
    assert locate(rows(("a", "Edema", None, None)), {}, {}, SIZE) == []


@pytest.mark.parametrize("place", [(0, 0), (3, 3)])
def test_a_perfect_mask_is_one(place: tuple[int, int]) -> None:
    (found,) = locate(
        rows(("a", "Edema", mask(place), place)), {"a": {"Edema": mask(place)}}, {"a": 16}, SIZE
    )
    assert (found.hit, found.iou, found.pooled) == (1.0, 1.0, 1.0)
