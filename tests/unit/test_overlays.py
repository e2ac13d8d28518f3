from __future__ import annotations

import io

import numpy as np
import pytest
from chexseg_platform.findings import FINDINGS, PLACED
from chexseg_platform.overlays import (
    BRIGHT,
    FINDING_COLOURS,
    MAX_ROWS,
    Case,
    MapCase,
    class_colours,
    contact_sheet,
    outlines_page,
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


def test_what_was_found_is_outlined_and_named_and_the_rest_is_not() -> None:
    colours = class_colours(("Edema", "Atelectasis", "Heart"))
    masks = {"Heart": box(0, 0), "Edema": box(4, 8), "Atelectasis": EMPTY}
    page = outlines_page(IMAGE, masks, colours, title="a $b")
    (legend,) = page.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Edema", "Heart"]
    assert [line.get_color() for line in legend.get_lines()] == [colours["Edema"], colours["Heart"]]
    assert not texts(page)[0]
    nothing = outlines_page(IMAGE, {"Edema": EMPTY}, colours)
    assert texts(nothing) == [[], ["nothing found"]]
    assert not nothing.legends


def test_findings_have_their_colours_and_others_none_of_those() -> None:
    colours = class_colours(("Heart", *PLACED))
    assert list(colours) == ["Heart", *PLACED]
    assert {name: colours[name] for name in FINDINGS} == FINDING_COLOURS
    assert len(set(colours.values())) == 14
    assert class_colours(("Heart",)) == {"Heart": FINDING_COLOURS["Enlarged Cardiomediastinum"]}


def test_there_are_colours_for_any_number_of_classes() -> None:
    once = len(FINDING_COLOURS) + len(BRIGHT)
    names = [f"structure {k}" for k in range(once + 3)]
    colours = list(class_colours(names).values())
    assert len(set(colours[:once])) == once
    assert colours[once:] == colours[:3]
    assert class_colours(()) == {}


def test_a_page_of_many_names_has_room_for_them() -> None:
    names = [f"{k} $x$ {'long ' * k}" for k in range(40)]
    page = outlines_page(IMAGE, dict.fromkeys(names, box(4, 8)), class_colours(names))
    (legend,) = page.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[0] == names[0]
    assert max(map(len, shown)) == 30
    few = outlines_page(IMAGE, {"0": box(4, 8)}, class_colours(("0",)))
    assert page.get_figheight() > few.get_figheight()
    assert Image.open(io.BytesIO(png(page))).size[0] > 100
