from __future__ import annotations

import io

import numpy as np
import pytest
from chexseg_platform.overlays import (
    MAX_ROWS,
    Case,
    MapCase,
    contact_sheet,
    findings_page,
    saliency_page,
)
from chexseg_platform.plots import png
from PIL import Image

IMAGE = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (24, 1))
EMPTY = np.zeros((24, 32), bool)


def box(top: int, left: int, side: int = 8) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = True
    return mask


def texts(figure: object) -> list[list[str]]:
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]  # type: ignore[attr-defined]


def test_every_tile_says_how_masks_overlap() -> None:
    masks = {"mix": box(4, 8), "expert only": EMPTY, "radiologists": box(4, 4)}
    cases = [
        Case("one", IMAGE, box(4, 4), masks),
        Case("none", IMAGE, EMPTY, {"mix": box(0, 0), "expert only": EMPTY}),
        Case("unread", IMAGE, None, masks),
    ]
    notes = texts(contact_sheet(cases))
    assert notes[1:4] == [["IoU 0.33"], ["nothing found"], ["IoU 1.00"]]
    assert notes[5:8] == [["truth is empty"], ["both empty"], ["no prediction"]]
    assert notes[9:] == [["no expert mask"]] * 3


def test_sheet_is_no_larger_than_can_be_looked_at() -> None:
    masks = {f"method {index}": box(index, index) for index in range(9)}
    figure = contact_sheet([Case(str(index), IMAGE, None, masks) for index in range(20)])
    assert len(figure.axes) == MAX_ROWS * 5
    assert len(contact_sheet([]).axes) == 1


@pytest.mark.parametrize("truth", [EMPTY, ~EMPTY, box(0, 0), box(0, 0, 1), box(23, 31, 1)])
def test_any_mask_can_be_drawn(truth: np.ndarray) -> None:
    picture = png(contact_sheet([Case("a", IMAGE, truth, {"mix": truth})]))
    assert Image.open(io.BytesIO(picture)).size[0] > 100


def test_saliency_page_marks_the_peak_and_says_what_is_empty() -> None:
    heat = np.zeros((24, 32))
    heat[5, 9] = 0.5
    figure = saliency_page(
        [
            MapCase("Edema", IMAGE, heat, box(4, 8), box(4, 4)),
            MapCase("Cardiomegaly", IMAGE, np.zeros((24, 32)), EMPTY, None),
        ]
    )
    notes = texts(figure)
    assert notes[1] == ["max 0.5"]
    assert notes[3] == ["IoU 0.33"]
    assert notes[5:] == [["empty map"], ["empty mask"], ["no expert mask"]]
    cross = figure.axes[1].lines[0]
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([9], [5])
    assert png(figure)


def test_findings_are_outlined_and_named_and_empty_ones_are_not() -> None:
    page = findings_page(IMAGE, {"Edema": box(4, 8), "Atelectasis": EMPTY}, title="a $b")
    (legend,) = page.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Edema"]
    assert not texts(page)[0]
    nothing = findings_page(IMAGE, {"Edema": EMPTY})
    assert texts(nothing) == [[], ["nothing found"]]
    assert not nothing.legends
