"""Which images a fraction takes."""

import pytest
from chexseg_platform.data.fractions import ClassAbsent, Shown, take_fraction

RARE = "Heart"


def images(count: int, rare: frozenset[int] = frozenset({7})) -> list[Shown]:
    return [
        Shown(f"i{n}", f"p{n // 2}", frozenset({"Lungs", RARE} if n in rare else {"Lungs"}))
        for n in range(count)
    ]


def test_smaller_fractions_lie_in_larger_ones_and_all_show_every_class() -> None:
    for seed in range(20):
        before: list[str] = []
        for fraction in (0.05, 0.1, 0.3, 1.0):
            taken = take_fraction(images(40), fraction, seed, ["Lungs", RARE])
            assert len(taken) == len(set(taken)) == round(40 * fraction)
            assert taken[: len(before)] == before
            assert "i7" in taken
            before = taken


def test_without_a_rare_class_images_come_patient_by_patient() -> None:
    taken = take_fraction(images(40), 0.5, 3, ["Lungs"])
    patients = [int(name[1:]) // 2 for name in taken]
    assert patients == [patient for patient in dict.fromkeys(patients) for _ in range(2)]
    assert taken != take_fraction(images(40), 0.5, 4, ["Lungs"])


def test_at_least_one_image_is_taken() -> None:
    assert len(take_fraction(images(10), 0.001, 0, ["Lungs"])) == 1
    assert take_fraction(images(10), 0.001, 0, ["Lungs", RARE]) == ["i7"]  # it shows both


def test_a_class_that_is_absent_is_named() -> None:
    with pytest.raises(ClassAbsent, match="Heart is seen on none of the 10 training images"):
        take_fraction(images(10, frozenset()), 1.0, 0, ["Lungs", RARE])
    apart = [
        Shown("a", "a", frozenset({"Lungs"})),
        Shown("b", "b", frozenset({RARE})),
        *(Shown(f"c{n}", f"c{n}", frozenset()) for n in range(18)),
    ]
    match = r"(Heart|Lungs) would be absent from .* 0.05 .* 1 of 20 cannot .* at least 0.1$"
    with pytest.raises(ClassAbsent, match=match):
        take_fraction(apart, 0.05, 0, ["Lungs", RARE])
    assert set(take_fraction(apart, 0.1, 0, ["Lungs", RARE])) == {"a", "b"}


def test_the_fraction_that_is_advised_will_do() -> None:
    names = ["one", "two", "three", "four", "five"]
    apart = [Shown(name, name, frozenset({name})) for name in names]
    apart += [Shown(f"c{n}", f"c{n}", frozenset()) for n in range(92)]  # 5 of 97: 0.0515...
    with pytest.raises(ClassAbsent, match=r"at least 0\.052$"):
        take_fraction(apart, 0.01, 0, names)
    assert set(take_fraction(apart, 0.052, 0, names)) == set(names)
