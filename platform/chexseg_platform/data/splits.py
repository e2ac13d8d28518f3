"""Splits by patient, never by image: two views of one chest are nearly one image.

A patient's place is decided by a hash of name and seed, not by a shuffled list. So it does not
depend on the order of a table, and it stays when other patients come or go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

SHOWN = 5


class PatientImage(Protocol):
    """Anything that is one image of a patient: an entry, a row of a dataset."""

    @property
    def image_id(self) -> str: ...

    @property
    def patient(self) -> str: ...


AnyImage = TypeVar("AnyImage", bound=PatientImage)


class PatientInTwoSplits(ValueError):
    """Some patients have images in more than one split; `patients` lists them all."""

    def __init__(self, message: str, patients: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.patients = tuple(patients)


def assert_disjoint(splits: Mapping[str, Iterable[PatientImage]]) -> None:
    """Check that no patient is in two splits.

    Args:
        splits: name of split -> its images.

    Raises:
        PatientInTwoSplits: naming some of the patients and their splits, and images of one.
    """
    homes: dict[str, dict[str, PatientImage]] = {}
    for name, images in splits.items():
        for image in images:
            homes.setdefault(image.patient, {}).setdefault(name, image)
    shared = {patient: seen for patient, seen in sorted(homes.items()) if len(seen) > 1}
    if shared:
        some = ", ".join(f"{p} ({' and '.join(shared[p])})" for p in list(shared)[:SHOWN])
        are = "patients are" if len(shared) > 1 else "patient is"
        raise PatientInTwoSplits(
            f"{len(shared)} {are} in more than one split: {some}"
            f"{', ...' if len(shared) > SHOWN else ''}. Of {next(iter(shared))} there are "
            f"{' and '.join(_place(image) for image in next(iter(shared.values())).values())}. "
            "Keep each patient in one table, or in one split's folder; different people need "
            "different names.",
            list(shared),
        )


def _place(image: PatientImage) -> str:
    """Return where an image lies, or its name where nothing says that."""
    return str(getattr(image, "source", image.image_id))


def split_patients(ids: Iterable[str], fraction: float, seed: int) -> tuple[set[str], set[str]]:
    """Split patients in two sets, of which the first holds `fraction` of them (rounded).

    With two patients or more and a fraction strictly between 0 and 1, neither set is empty. The
    result depends on the set of names and the seed only; a smaller fraction gives a subset.

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"A fraction of {fraction} is not possible: give a number from 0 to 1.")
    order = patient_order(ids, seed)
    count = round(fraction * len(order))
    if 0 < fraction < 1 and len(order) > 1:
        count = min(max(count, 1), len(order) - 1)
    return set(order[:count]), set(order[count:])


def take_images(images: Sequence[AnyImage], count: int | None, seed: int) -> list[AnyImage]:
    """Choose `count` images, patient by patient in the seed's order; None takes all.

    Choices are nested: the first 10 are among the first 30. The last patient may be taken in
    part. Returned in the order chosen.

    Raises:
        ValueError: a negative count, or more images than there are.
    """
    if count is None:
        count = len(images)
    if not 0 <= count <= len(images):
        raise ValueError(f"{count} images were asked for, but there are {len(images)}.")
    by_patient: dict[str, list[AnyImage]] = {}
    for image in images:
        by_patient.setdefault(image.patient, []).append(image)
    order = [
        image
        for patient in patient_order(by_patient, seed)
        for image in sorted(by_patient[patient], key=lambda image: image.image_id)
    ]
    return order[:count]


def patient_order(ids: Iterable[str], seed: int) -> list[str]:
    """Return the distinct patients in the order of a seeded hash of their names."""
    return sorted(set(ids), key=lambda patient: (_draw(patient, seed), patient))


def _draw(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{patient}".encode()).digest()
