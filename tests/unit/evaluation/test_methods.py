"""What a method's maps and masks count as, row by row."""

import json

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.artifacts import Workspace
from chexseg_platform.data import geometry
from chexseg_platform.data.masks import decode, encode
from chexseg_platform.data.rows import ImageRow
from chexseg_platform.data.store import index_part
from chexseg_platform.evaluation.counts import cube
from chexseg_platform.evaluation.methods import COLUMNS, Method, Predictor, _hits, count_rows
from chexseg_platform.evaluation.metrics import score
from chexseg_platform.evaluation.segmenting import Segmented
from chexseg_platform.evaluation.truth import Truth
from chexseg_platform.findings import FINDINGS, INFECTION, LUNGS, OBSERVATIONS, PLACED
from chexseg_platform.stages.evaluate import chexlocalize_json, covers_findings


def mask(*cells):
    drawn = np.zeros((4, 4), bool)
    for cell in cells:
        drawn[cell] = True
    return encode(drawn)


ROW = {"height": 4, "width": 4, "benchmark_points": None}


def test_a_map_without_a_maximum_is_a_miss_where_there_is_something_to_hit():
    truth = {"Edema": mask((1, 1)), "Cardiomegaly": mask((2, 2))}
    found = _hits(
        ROW, Truth(truth, FINDINGS), {"Edema": (1, 1), "Atelectasis": (0, 0)}, readers=False
    )
    assert found["Edema"] == 1
    assert found["Cardiomegaly"] == 0
    assert [found[name] for name in FINDINGS if name not in truth] == [None] * 8


def test_nothing_is_hit_or_missed_without_truth_or_maps():
    drawn = Truth({"Edema": mask((1, 1))}, FINDINGS)
    assert _hits(ROW, Truth(None, ()), {"Edema": (1, 1)}, readers=False) is None
    assert _hits(ROW, drawn, None, readers=False) is None


def test_of_what_is_not_known_nothing_is_hit_or_missed():
    drawn = Truth({"Heart": mask((1, 1))}, ("Heart",))
    assert _hits(ROW, drawn, {"Heart": (0, 0), LUNGS: (1, 1)}, readers=False) == {"Heart": 0}


SIZE, HEIGHT, WIDTH = 32, 40, 48
RIGHT, LEFT = (slice(5, 35), slice(0, 20)), (slice(5, 35), slice(28, 48))
MIDDLE = (slice(20, 40), slice(18, 30))


def box(*places):
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    for place in places:
        drawn[place] = True
    return encode(drawn)


def row(name, masks, label=None):
    image = geometry.letterbox(
        np.full((HEIGHT, WIDTH), 90, np.uint8), geometry.Letterbox(HEIGHT, WIDTH, SIZE)
    )
    return ImageRow(
        image_id=name, patient=name, study="s", view="frontal", projection=None, sex=None, age=None,
        split="test", source=name, height=HEIGHT, width=WIDTH, image=image.tobytes(),
        labels=(label,) * len(OBSERVATIONS), masks=masks,
    )  # fmt: skip


@pytest.fixture
def counted(tmp_path, make_dataset, monkeypatch):
    """Count a segmenter of some classes, which draws what it is told, on rows."""

    def count(classes, rows, says):
        class Drawing:
            def __init__(self, files, size):
                assert size == SIZE
                self.classes = classes

            def segment(self, frames):
                maps = np.full((len(classes), SIZE, SIZE), 0.25, np.float32)
                for frame in frames:
                    assert (frame.height, frame.width) == (HEIGHT, WIDTH)
                    highest = dict.fromkeys(classes, 0.25)
                    yield Segmented(says, dict.fromkeys(classes, (10, 10)), highest, maps)

        monkeypatch.setattr("chexseg_platform.evaluation.methods.Segmenting", Drawing)
        segmenter = Workspace(tmp_path).draft("segmenter", "0" * 16)
        method = Method("mine", 4, segmenter.finish([], config={}, inputs={}, seed=0))
        dataset = make_dataset(tmp_path / "data", rows, shards=1)
        table = dataset.table("rows/00000.parquet", COLUMNS)
        small = index_part(dataset, "rows/00000.parquet", ["small_masks"])["small_masks"]
        table = table.append_column("small_masks", small)
        return count_rows(Predictor(method, dataset), table, "00000.parquet", "test")

    return count


def places(counts):
    names = ("truth", "prediction", "intersection", "hit")
    return {
        (item["image_id"], item["finding"]): tuple(item[name] for name in names)
        for item in counts.to_pylist()
    }


def test_structures_are_counted_at_original_size_each_where_it_is_known(counted):
    rows = [
        row("sides", {"Right Lung": box(RIGHT), "Left Lung": box(LEFT), "Heart": box()}),
        row("whole", {LUNGS: box(RIGHT)}),
        row("half", {"Left Lung": box(LEFT), "Heart": box(MIDDLE)}),
        row("unread", None),
    ]
    says = {LUNGS: box(RIGHT), "Heart": box(MIDDLE)}
    found = counted((LUNGS, "Heart"), rows, says)
    assert places(found.counts) == {
        ("sides", LUNGS): (1200, 600, 600, 1),
        ("sides", "Heart"): (0, 240, 0, None),  # looked for and empty: a false alarm
        ("whole", LUNGS): (600, 600, 600, 1),
        ("whole", "Heart"): (None, 240, None, None),
        ("half", LUNGS): (None, 600, None, None),  # of one side nothing is known
        ("half", "Heart"): (240, 240, 240, 0),
        ("unread", LUNGS): (None, 600, None, None),
        ("unread", "Heart"): (None, 240, None, None),
    }
    counts = cube(found.counts)
    assert score(counts, "dice_union")[0] == pytest.approx([(2 / 3 + 1) / 2, (0 + 1) / 2])
    assert score(counts, "iou_union")[0] == pytest.approx([(1 / 2 + 1) / 2, (0 + 1) / 2])
    assert score(counts, "dice_pooled")[0] == pytest.approx([2400 / 3000, 480 / 720])
    assert score(counts, "iou_pooled")[0] == pytest.approx([1200 / 1800, 240 / 480])


def test_distances_of_outlines_take_the_union_of_sides(counted):
    rows = [row("a", {"Right Lung": box(RIGHT), "Left Lung": box(LEFT)})]
    found = counted((LUNGS,), rows, {LUNGS: box(RIGHT, LEFT)})
    assert found.counts["hd95"].to_pylist() == [0.0]


def test_pixels_are_calibrated_where_a_structure_is_known(counted):
    rows = [
        row("a", {"Right Lung": box(RIGHT), "Left Lung": box(LEFT)}),
        row("b", {"Heart": box()}),
    ]
    found = counted((LUNGS, "Heart"), rows, {})
    inner = 27 * 32  # 40 x 48 in a frame of 32
    small = geometry.letterbox_mask(
        decode(box(RIGHT, LEFT), HEIGHT, WIDTH), geometry.Letterbox(HEIGHT, WIDTH, SIZE)
    )
    assert [
        (item["image_id"], item["finding"], item["unit"], item["count"], item["true"])
        for item in found.calibration.to_pylist()
    ] == [("a", LUNGS, "pixel", inner, np.count_nonzero(small)), ("b", "Heart", "pixel", inner, 0)]


def test_predictions_of_structures_are_kept_and_are_no_chexlocalize_json(counted):
    found = counted((INFECTION,), [row("a", {INFECTION: box(LEFT)})], {})
    assert found.predictions.to_pylist() == [
        {
            "image_id": "a", "height": HEIGHT, "width": WIDTH, "finding": INFECTION, "counts": None
        }
    ]  # fmt: skip
    assert places(found.counts) == {("a", INFECTION): (600, 0, 0, 0)}
    assert not covers_findings(found.predictions)


def test_observations_besides_the_findings_are_unknown_where_nobody_drew_them(counted):
    rows = [row("a", {"Edema": box(LEFT)}), row("b", None, label=0)]
    found = counted(PLACED, rows, {"Edema": box(LEFT), "Fracture": box(RIGHT)})
    counts = places(found.counts)
    assert len(counts) == 2 * 13
    assert counts["a", "Edema"][:3] == (600, 600, 600)
    assert counts["a", "Atelectasis"] == (0, 0, 0, None)
    assert counts["a", "Fracture"] == (None, 600, None, None)
    assert counts["b", "Edema"] == (0, 600, 0, None)
    assert covers_findings(found.predictions)
    written = json.loads(chexlocalize_json(found.predictions))
    assert [len(entry) for entry in written.values()] == [10, 10]
    assert written["a"]["Edema"] == {"size": [HEIGHT, WIDTH], "counts": box(LEFT)}


def test_no_rows_are_an_empty_json():
    nothing = pa.table({"finding": pa.array([], pa.string())})
    assert covers_findings(nothing)
