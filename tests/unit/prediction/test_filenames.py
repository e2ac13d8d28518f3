"""Files named after classes: readable, safe, and never two of one name."""

import pytest
from chexseg_platform.findings import FINDINGS, STRUCTURES
from chexseg_platform.prediction.filenames import LONGEST, clean, mask_files, renamed


def test_known_classes_are_called_as_they_are() -> None:
    files = mask_files((*FINDINGS, *STRUCTURES))
    assert files["Pleural Effusion"] == "Pleural_Effusion.png"
    assert files["COVID-19 Infection"] == "COVID-19_Infection.png"
    assert renamed((*FINDINGS, *STRUCTURES)) == {}


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/../b", "a_.._b"),
        ("..", "__"),
        (".hidden", "_hidden"),
        ("/etc", "_etc"),
        ("c:\\x", "c__x"),
        ("a\u200db", "a_b"),
        ("größer (5%)", "größer_(5_)"),
        ("gro\u0308ßer", "größer"),
        ("\u5fc3\u81d3", "\u5fc3\u81d3"),
        ("हृदय", "हृदय"),
        ("?", "_"),
    ],
)
def test_odd_signs_become_lines(name: str, safe: str) -> None:
    assert clean(name) == safe


def test_long_names_are_cut_between_signs() -> None:
    assert clean("ß" * 300) == "ß" * (LONGEST // 2)
    assert clean("a" + "ß" * 300) == "a" + "ß" * (LONGEST // 2 - 1)


def test_names_that_would_be_one_get_a_number() -> None:
    classes = ("a b", "a_b", "a_b_2", "A/B", "c")
    files = mask_files(classes)
    assert files == {
        "a b": "a_b.png",
        "a_b": "a_b_2.png",
        "a_b_2": "a_b_2_2.png",
        "A/B": "A_B_3.png",
        "c": "c.png",
    }
    assert list(renamed(classes)) == ["a_b", "a_b_2", "A/B"]
