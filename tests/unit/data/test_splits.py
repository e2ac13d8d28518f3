"""Splits by patient: disjoint, complete, nested, and independent of order."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from chexseg_platform.data.splits import (
    PatientInTwoSplits,
    assert_disjoint,
    patient_order,
    split_patients,
    take_images,
)
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.lists(st.text("abc123", min_size=1, max_size=4), unique=True, max_size=30)


def images(*patients):
    return [
        SimpleNamespace(patient=patient, image_id=f"{patient}_study1_view{n}_frontal")
        for n, patient in enumerate(patients)
    ]


@given(NAMES, st.floats(0, 1), st.integers(0, 9), st.randoms())
def test_two_sets_hold_every_patient_once_whatever_the_order(names, fraction, seed, random):
    first, second = split_patients(names, fraction, seed)
    assert first | second == set(names)
    assert not first & second
    assert abs(len(first) - fraction * len(names)) <= 1
    random.shuffle(names)
    assert split_patients(names * 2, fraction, seed) == (first, second)


@given(NAMES, st.integers(0, 9))
def test_a_smaller_fraction_is_a_subset(names, seed):
    assert split_patients(names, 0.2, seed)[0] <= split_patients(names, 0.6, seed)[0]


def test_neither_set_is_empty_unless_asked():
    assert [len(s) for s in split_patients(["a", "b", "c"], 0.01, 0)] == [1, 2]
    assert [len(s) for s in split_patients(["a", "b", "c"], 0.99, 0)] == [2, 1]
    assert [len(s) for s in split_patients(["a", "b", "c"], 1.0, 0)] == [3, 0]
    with pytest.raises(ValueError, match="0 to 1"):
        split_patients(["a"], 1.2, 0)


def test_seeds_differ_and_a_seed_is_for_ever():
    names = [f"patient{n:05d}" for n in range(50)]
    assert patient_order(names, 0) != patient_order(names, 1)
    assert patient_order(names, 0)[:3] == ["patient00016", "patient00022", "patient00010"]


def test_other_patients_do_not_move_one():
    names = [f"p{n}" for n in range(40)]
    fewer = [name for name in patient_order(names, 3) if name != "p7"]
    assert patient_order([name for name in names if name != "p7"], 3) == fewer


def test_taken_images_are_nested_and_by_patient():
    entries = images("a", "b", "b", "c", "d", "d", "d", "e")
    order = [entry.image_id for entry in take_images(entries, None, 5)]
    assert sorted(order) == sorted(entry.image_id for entry in entries)
    patients = [image_id.split("_")[0] for image_id in order]
    assert len([1 for a, b in pairwise(patients) if a != b]) == 4
    for count in range(len(entries) + 1):
        taken = take_images(entries[::-1], count, 5)
        assert [entry.image_id for entry in taken] == order[:count]
    with pytest.raises(ValueError, match="there are 8"):
        take_images(entries, 9, 5)


def test_a_patient_in_two_splits_is_named():
    assert_disjoint({"train": images("a", "a"), "valid": images("b"), "test": []})
    with pytest.raises(PatientInTwoSplits, match=r"b \(train and test\)") as caught:
        assert_disjoint({"train": images("a", "b"), "valid": images("c"), "test": images("b")})
    assert caught.value.patients == ("b",)
    places = "b_study1_view1_frontal and b_study1_view0_frontal. Keep each patient in one table"
    assert f"Of b there are {places}" in str(caught.value)
