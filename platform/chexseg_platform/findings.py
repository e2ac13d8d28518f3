"""One vocabulary: the 14 observations of CheXpert and the 10 findings of CheXlocalize.

Every array whose axis is "observation" or "finding" follows the order given here. Names from
files and from users go through `canonical`, so that "Airspace Opacity" (CheXlocalize's JSON)
and "Lung Opacity" (CheXpert's CSV) are one thing.
"""

from __future__ import annotations

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

_BY_KEY = {name.casefold(): name for name in OBSERVATIONS} | ALIASES


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
