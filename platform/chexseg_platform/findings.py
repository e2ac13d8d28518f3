"""One vocabulary: CheXpert's 14 observations, CheXlocalize's 10 findings, organs and infection.

Every array whose axis is "observation" or "finding" follows the order given here. Names from
files and from users go through `canonical`, so that "Airspace Opacity" (CheXlocalize's JSON)
and "Lung Opacity" (CheXpert's CSV) are one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

OBSERVATIONS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""CheXpert's 14 observations in the order of its CSV columns."""

FINDINGS: tuple[str, ...] = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)
"""CheXlocalize's 10 localizable findings in the order of its JSON."""

PLACED: tuple[str, ...] = OBSERVATIONS[1:]
"""The observations that have a place in the image: all but "No Finding"."""

COMPETITION: tuple[str, ...] = (
    "Cardiomegaly",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pleural Effusion",
)
"""The five CheXpert competition tasks, on whose mean AUROC classifiers are selected."""

CHEXLOCALIZE_NAMES: dict[str, str] = {
    name: "Airspace Opacity" if name == "Lung Opacity" else name for name in FINDINGS
}
"""Our name of each finding -> the key that CheXlocalize's JSON files use."""

ALIASES: dict[str, str] = {
    "airspace opacity": "Lung Opacity",
    "support device": "Support Devices",
}

FINDING_TO_OBSERVATION: tuple[int, ...] = tuple(OBSERVATIONS.index(name) for name in FINDINGS)
"""Index of each finding among the observations: `labels[:, FINDING_TO_OBSERVATION]`."""

RIGHT_LUNG, LEFT_LUNG, HEART = "Right Lung", "Left Lung", "Heart"
RIGHT_CLAVICLE, LEFT_CLAVICLE = "Right Clavicle", "Left Clavicle"
LUNGS, CLAVICLES, INFECTION = "Lungs", "Clavicles", "COVID-19 Infection"

ORGANS: tuple[str, ...] = (RIGHT_LUNG, LEFT_LUNG, HEART, RIGHT_CLAVICLE, LEFT_CLAVICLE)
"""The five organs of the SCR database. Sides are the patient's: the right lung lies on the left."""

WHOLE: dict[str, tuple[str, ...]] = {
    LUNGS: (RIGHT_LUNG, LEFT_LUNG),
    CLAVICLES: (RIGHT_CLAVICLE, LEFT_CLAVICLE),
}
"""A structure of two sides -> its sides, of which its mask is the union."""

MIRRORED: dict[str, str] = {
    RIGHT_LUNG: LEFT_LUNG, LEFT_LUNG: RIGHT_LUNG,
    RIGHT_CLAVICLE: LEFT_CLAVICLE, LEFT_CLAVICLE: RIGHT_CLAVICLE,
}  # fmt: skip
"""What a structure becomes where left and right are swapped; the others stay themselves."""

STRUCTURES: tuple[str, ...] = (*ORGANS, *WHOLE, INFECTION)
"""What is no observation of CheXpert and has masks."""

_STRUCTURE_ALIASES = {"lung": LUNGS, "clavicle": CLAVICLES, "infection": INFECTION}
_BY_STRUCTURE = {name.casefold(): name for name in STRUCTURES} | _STRUCTURE_ALIASES
_BY_KEY = {name.casefold(): name for name in OBSERVATIONS} | ALIASES


def observation_places(names: Sequence[str]) -> list[int]:
    """Return the index of each class among the observations: `labels[:, places]`."""
    return [OBSERVATIONS.index(name) for name in names]


class UnknownFinding(ValueError):
    """A name that is no observation and no alias of one."""


def canonical(name: str) -> str:
    """Return our spelling of an observation's name, whatever its case, spacing or alias.

    Raises:
        UnknownFinding: with the nearest known name, where there is one.
    """
    key = " ".join(name.replace("_", " ").split()).casefold()
    if key in _BY_KEY:
        return _BY_KEY[key]
    near = get_close_matches(key, _BY_KEY, n=1)
    hint = f" Did you mean {_BY_KEY[near[0]]!r}?" if near else ""
    raise UnknownFinding(f"{name!r} is not a CheXpert observation.{hint}")


def structure(name: str) -> str:
    """Return our spelling of a structure's name (a folder's), or the name as it is.

    Case, underscores and spaces do not matter; an observation's name is understood as well.
    """
    plain = " ".join(name.replace("_", " ").split())
    key = plain.casefold()
    return _BY_STRUCTURE.get(key) or _BY_KEY.get(key) or plain


def mirrored(classes: Sequence[str]) -> list[int] | None:
    """Return for each class the place of what it is once left and right are swapped.

    None where all stay themselves.

    Raises:
        ValueError: where one side is among the classes and the other is not.
    """
    for name in classes:
        other = MIRRORED.get(name, name)
        if other not in classes:
            raise ValueError(
                f"augment.flip makes {name} the {other}, which is not among the classes: take both "
                "sides, or do not flip"
            )
    places = [classes.index(MIRRORED.get(name, name)) for name in classes]
    return None if places == list(range(len(places))) else places
