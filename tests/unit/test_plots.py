from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from chexseg_platform.evaluation.comparison import Comparison, compare
from chexseg_platform.evaluation.counts import count_table, cube
from chexseg_platform.plots import LOOKS, OTHERS, curves, forest, look, mix_ratio, png, svg
from matplotlib.figure import Figure


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    rows = [
        {
            "method": method,
            "seed": 0,
            "split": "test",
            "image_id": f"i{image}",
            "patient": f"p{image}",
            "finding": finding,
            "height": 10,
            "width": 10,
            "truth": 0 if finding == "Fracture" else 50,
            "prediction": 40,
            "intersection": 0 if finding == "Fracture" else share + image,
        }
        for method, share in (("expert only", 20), ("mix", 25), ("radiologists", 30))
        for image in range(6)
        for finding in ("Edema", "Fracture", "Cardiomegaly")
    ]
    return compare(cube(count_table(rows)), resamples=50)


def some_curves() -> Figure:
    epochs = [1, 2, 3]
    return curves({"loss": {"train": (epochs, [3, 2, 1]), "valid": (epochs, [3, np.nan, 2])}})


def test_png_and_svg_are_pictures() -> None:
    figure = some_curves()
    assert png(figure).startswith(b"\x89PNG\r\n")
    root = ElementTree.fromstring(svg(figure))
    assert root.tag.endswith("svg")


def test_svg_keeps_text_and_is_the_same_every_time() -> None:
    first, again = svg(some_curves()), svg(some_curves())
    assert ">train<" in first.replace("\n", "")
    assert first == again


def test_no_figure_is_kept_and_pyplot_is_not_loaded() -> None:
    program = (
        "import sys; from chexseg_platform.plots import curves, png;"
        "png(curves({'loss': {'train': ([1, 2], [2, 1])}}));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_curves_draw_what_they_are_given() -> None:
    axes = some_curves().axes[0]
    assert [line.get_label() for line in axes.lines] == ["train", "valid"]
    assert list(axes.lines[0].get_ydata()) == [3, 2, 1]
    assert png(curves({}))


def test_lines_of_arms_look_like_them_and_nine_others_differ() -> None:
    def looks(*names: str) -> list[tuple[str, str]]:
        panel = curves({"loss": {name: ([1, 2], [2, 1]) for name in names}}).axes[0]
        return [(line.get_color(), line.get_marker()) for line in panel.lines]

    mix = (LOOKS["mix"].colour, LOOKS["mix"].marker)
    assert looks("other", "mix, seed 0", "mix, seed 3")[1:] == [mix, mix]
    assert len(set(looks(*(f"p {number}, seed 0" for number in range(9))))) == 9
    assert len(set(looks("mix", "p 1", "p 2", "p 3", "p 4", "p 5"))) == 6


def test_ratios_are_drawn_in_order_with_a_point_a_seed() -> None:
    figure = mix_ratio(
        [0.9, 0.0, 0.5],
        [[0.3, 0.4], [0.1, 0.2], [np.nan]],
        intervals=[(0.2, 0.5), (0.05, 0.25), None],
        chosen=0.9,
        readers=(0.5, 0.45, 0.55),
    )
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    mean = lines["mean over seeds"]
    assert list(mean.get_xdata()) == [0.0, 0.5, 0.9]
    np.testing.assert_allclose(mean.get_ydata(), [0.15, np.nan, 0.35])
    assert list(lines["one seed"].get_ydata()) == [0.1, 0.2]
    assert png(figure)


def test_forest_has_a_row_a_finding_and_the_mean_last(comparison: Comparison) -> None:
    figure = forest(comparison)
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["Edema  (6)", "Fracture  (0)", "Cardiomegaly  (6)", "Mean"]
    assert "mIoU B" in axes.get_title(loc="left")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["expert only", "mix", "radiologists"]
    drawn = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() != "None")
    values = [
        found.value
        for method in ("expert only", "mix")
        for found in comparison.scores["iou_union"][method].findings
    ]
    np.testing.assert_allclose(drawn, sorted(value for value in values if value == value))
    assert png(figure)


def test_methods_are_told_apart_by_more_than_colour() -> None:
    looks = [*LOOKS.values(), *OTHERS]
    assert len({style.marker for style in looks}) == len(looks)
    assert look("mix") is LOOKS["mix"]
    assert look("another", 1) is OTHERS[1]
