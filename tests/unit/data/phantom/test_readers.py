"""Readers: outlines follow the lesion, disagree with spread, stay inside, respect the rules."""

import numpy as np
import pytest
from chexseg_platform.data.masks import rasterise
from chexseg_platform.data.phantom.frame import Points
from chexseg_platform.data.phantom.lesions import Lesion
from chexseg_platform.data.phantom.readers import (
    EXPERT,
    SECOND,
    SPREAD,
    Reader,
    contains,
    ribbon,
    salient_points,
    signed_area,
    trace,
)
from chexseg_platform.findings import FINDINGS

SHAPE = (80, 100)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    far = np.hypot(columns - x, rows - y) / radius
    return np.clip(1.9 - far, 0, 1).astype(np.float32)


def drawn(polygons: list[Points]) -> np.ndarray:
    return rasterise([p.tolist() for p in polygons], *SHAPE)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_area_by_hand() -> None:
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
    assert abs(signed_area(square)) == 16
    assert contains(square, np.array([1.0, 3.0]))
    assert not contains(square, np.array([5.0, 3.0]))


def test_trace_finds_the_level_set() -> None:
    loops = trace(disc(50, 40, 15))
    assert len(loops) == 1
    assert abs(signed_area(loops[0])) == pytest.approx(np.pi * (1.5 * 15) ** 2, rel=0.02)


def test_trace_closes_what_touches_the_border_and_takes_the_faint() -> None:
    loops = trace(0.2 * disc(0, 0, 20))
    assert len(loops) == 1
    assert abs(signed_area(loops[0])) > 0.9 * np.pi * 30**2 / 4
    assert trace(np.zeros(SHAPE, np.float32)) == []


def test_ribbon_is_thin_and_as_long_as_its_path() -> None:
    path = np.stack([np.linspace(10, 60, 20), np.full(20, 30.0)], 1)
    assert abs(signed_area(ribbon(path, 4.0))) == pytest.approx(50 * 5.2)


def test_a_steady_hand_draws_the_lesion_itself() -> None:
    lesion = Lesion("Lung Lesion", disc(50, 40, 12))
    outlines = Reader(1e-6).outline([lesion], SHAPE, np.random.default_rng(0))
    assert iou(drawn(outlines["Lung Lesion"]), drawn(trace(disc(50, 40, 12)))) > 0.75


def test_careless_readers_agree_less() -> None:
    lesion = Lesion("Edema", disc(50, 40, 14))
    truth = drawn(trace(disc(50, 40, 14)))
    scores = []
    for care in (0.1, 0.5, 1.5):
        reader = Reader(care)
        marks = [
            reader.outline([lesion], SHAPE, np.random.default_rng(k))["Edema"] for k in range(40)
        ]
        scores.append(np.mean([iou(drawn(m), truth) for m in marks]))
    assert scores[0] > scores[1] > scores[2]


def test_every_finding_is_marked_inside_the_image() -> None:
    lesions = [Lesion(finding, disc(95, 5, 14)) for finding in FINDINGS]
    for seed in range(10):
        outlines = SECOND.outline(lesions, SHAPE, np.random.default_rng(seed))
        assert list(outlines) == list(FINDINGS)
        for polygons in outlines.values():
            assert polygons
            for polygon in polygons:
                assert polygon.min() >= 0
                assert (polygon <= [SHAPE[1] - 1, SHAPE[0] - 1]).all()


def test_the_cardiomediastinum_ends_with_the_heart() -> None:
    lesions = [Lesion("Enlarged Cardiomediastinum", disc(50, 30, 9))]
    lesions.append(Lesion("Cardiomegaly", disc(55, 50, 15)))
    outlines = EXPERT.outline(lesions, SHAPE, np.random.default_rng(1))
    assert outlines["Enlarged Cardiomediastinum"][-1] is outlines["Cardiomegaly"][0]
    assert len(outlines["Enlarged Cardiomediastinum"]) == 2


def test_salient_points_hit_about_as_often_as_published() -> None:
    truth = {"Pneumothorax": trace(disc(50, 40, 12)), "Consolidation": trace(disc(30, 40, 6))}
    hits: dict[str, list[bool]] = {name: [] for name in truth}
    for seed in range(300):
        points = salient_points(truth, SHAPE, np.random.default_rng(seed))
        for name, (point,) in points.items():
            hits[name].append(contains(truth[name][0], point))
    assert np.mean(hits["Pneumothorax"]) > 0.97
    assert np.mean(hits["Consolidation"]) == pytest.approx(0.602, abs=0.1)


def test_every_finding_has_a_spread() -> None:
    assert set(SPREAD) == set(FINDINGS)
