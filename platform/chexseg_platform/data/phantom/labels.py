"""Which findings a study has, and what a report labeller makes of them.

The truth comes from correlated normal variables: a patient is more or less ill, the heart and
an infection each bring their own group of findings, and thresholds set the prevalence. Reports
are then labelled with noise. Every rate below is a plain number with its source.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ...findings import OBSERVATIONS
from .frame import Rng

DISEASES: tuple[str, ...] = OBSERVATIONS[1:]
"""Every observation but No Finding."""

PREVALENCE: dict[str, dict[str, float]] = {
    # Images with the class in CheXlocalize's ground truth, over 234 (validation) and 668 (test);
    # the last three are not in CheXlocalize: rates near those of CheXpert's reports.
    "valid": {
        "Enlarged Cardiomediastinum": 0.466, "Cardiomegaly": 0.291, "Lung Opacity": 0.538,
        "Lung Lesion": 0.012, "Edema": 0.192, "Consolidation": 0.141, "Pneumonia": 0.035,
        "Atelectasis": 0.342, "Pneumothorax": 0.034, "Pleural Effusion": 0.286,
        "Pleural Other": 0.01, "Fracture": 0.03, "Support Devices": 0.457,
    },
    "test": {
        "Enlarged Cardiomediastinum": 0.445, "Cardiomegaly": 0.262, "Lung Opacity": 0.463,
        "Lung Lesion": 0.021, "Edema": 0.124, "Consolidation": 0.052, "Pneumonia": 0.02,
        "Atelectasis": 0.265, "Pneumothorax": 0.016, "Pleural Effusion": 0.180,
        "Pleural Other": 0.012, "Fracture": 0.03, "Support Devices": 0.470,
    },
    # Nobody knows the truth behind CheXpert's training reports: between what the reports say
    # and what experts see on the validation images.
    "train": {
        "Enlarged Cardiomediastinum": 0.44, "Cardiomegaly": 0.26, "Lung Opacity": 0.55,
        "Lung Lesion": 0.04, "Edema": 0.25, "Consolidation": 0.12, "Pneumonia": 0.06,
        "Atelectasis": 0.32, "Pneumothorax": 0.095, "Pleural Effusion": 0.40,
        "Pleural Other": 0.02, "Fracture": 0.06, "Support Devices": 0.56,
    },
}  # fmt: skip

REPORTED: dict[str, tuple[float, float, float]] = {
    # Shares of studies whose training label is 1, 0 and -1 (the rest is blank): CheXpert's
    # train.csv, 187,641 studies. No Finding is derived, see `report`.
    "Enlarged Cardiomediastinum": (0.0481, 0.0801, 0.0541),
    "Cardiomegaly": (0.1226, 0.0411, 0.0352),
    "Lung Opacity": (0.4939, 0.0264, 0.0231),
    "Lung Lesion": (0.0365, 0.0040, 0.0057),
    "Edema": (0.2606, 0.0835, 0.0617),
    "Consolidation": (0.0678, 0.1023, 0.1278),
    "Pneumonia": (0.0244, 0.0098, 0.0834),
    "Atelectasis": (0.1563, 0.0054, 0.1566),
    "Pneumothorax": (0.0923, 0.2505, 0.0142),
    "Pleural Effusion": (0.4034, 0.1323, 0.0502),
    "Pleural Other": (0.0130, 0.0011, 0.0094),
    "Fracture": (0.0387, 0.0104, 0.0026),
    "Support Devices": (0.5640, 0.0280, 0.0048),
}

SENSITIVITY: dict[str, float] = {
    # Share of true findings that a report states plainly. An enlarged cardiomediastinum is all
    # but unrelated to what experts see, which is why published classifiers reach AUROC .55.
    "Enlarged Cardiomediastinum": 0.055, "Cardiomegaly": 0.42, "Lung Opacity": 0.76,
    "Lung Lesion": 0.72, "Edema": 0.82, "Consolidation": 0.42, "Pneumonia": 0.25,
    "Atelectasis": 0.37, "Pneumothorax": 0.88, "Pleural Effusion": 0.86,
    "Pleural Other": 0.45, "Fracture": 0.5, "Support Devices": 0.92,
}  # fmt: skip

LOADINGS: dict[str, tuple[float, float, float]] = {
    # On how ill the patient is, on heart failure, on infection: chosen so that correlations of
    # training labels come near those of train.csv (e.g. Cardiomegaly-Edema .17, Lung
    # Opacity-Pleural Effusion .21), and images without any finding are as frequent as in
    # CheXlocalize (a fifth of validation, a quarter of test).
    "Enlarged Cardiomediastinum": (0.45, 0.30, 0.0), "Cardiomegaly": (0.40, 0.65, 0.0),
    "Lung Opacity": (0.70, 0.05, 0.30), "Lung Lesion": (0.10, -0.25, 0.1),
    "Edema": (0.55, 0.55, -0.05), "Consolidation": (0.45, 0.0, 0.5),
    "Pneumonia": (0.30, 0.0, 0.60), "Atelectasis": (0.60, 0.0, 0.0),
    "Pneumothorax": (0.10, -0.45, -0.15), "Pleural Effusion": (0.72, 0.10, 0.05),
    "Pleural Other": (0.10, -0.1, 0.1), "Fracture": (0.0, -0.1, -0.05),
    "Support Devices": (0.60, 0.05, -0.15),
}  # fmt: skip

IMPLIES_OPACITY: dict[str, float] = {
    "Edema": 0.85, "Consolidation": 0.95, "Atelectasis": 0.6, "Lung Lesion": 0.4, "Pneumonia": 0.9
}  # fmt: skip
"""Chance that an expert who sees this also marks Lung Opacity."""

NO_FINDING_RATE = 0.9
"""Share of reports mentioning nothing else (support devices aside) that become No Finding."""

_LOAD = np.array([LOADINGS[name] for name in DISEASES])
_ALONE = np.sqrt(1 - np.square(_LOAD).sum(axis=1))

Labels = dict[str, int | None]


@dataclass(frozen=True)
class Illness:
    """A patient's standing part of the correlated variables: (3,) factors and (13,) residuals."""

    factors: np.ndarray
    residuals: np.ndarray


def sample_illness(rng: Rng) -> Illness:
    """Draw what a patient's studies have in common."""
    return Illness(rng.standard_normal(3), rng.standard_normal(len(DISEASES)))


def sample_truth(illness: Illness, split: str, rng: Rng) -> tuple[set[str], float]:
    """Draw the findings of one study and how ill the patient is (standard normal).

    Half of a study's variance is the patient's own. Cardiomegaly makes the cardiomediastinum
    enlarged; opaque findings mostly make a Lung Opacity.
    """
    keep = np.sqrt(0.5)
    factors = keep * illness.factors + keep * rng.standard_normal(3)
    residuals = keep * illness.residuals + keep * rng.standard_normal(len(DISEASES))
    values = _LOAD @ factors + _ALONE * residuals
    present = {
        name for name, above in zip(DISEASES, values > OWN_CUTS[split], strict=True) if above
    }
    if "Cardiomegaly" in present:
        present.add("Enlarged Cardiomediastinum")
    draws = rng.random(len(IMPLIES_OPACITY))
    if any(name in present and draw < IMPLIES_OPACITY[name]
           for name, draw in zip(IMPLIES_OPACITY, draws, strict=True)):  # fmt: skip
        present.add("Lung Opacity")
    return present, float(factors[0])


def _own_cuts(split: str) -> np.ndarray:
    """Thresholds on the normal variables; the two parents need less of their own."""
    # What children add to a parent that its own draw would not have: fitted, so that the sums
    # come out at the rates above (20,000 draws).
    through = {"train": (0.196, 0.325), "valid": (0.219, 0.295), "test": (0.199, 0.185)}[split]
    rates = dict(PREVALENCE[split])
    for name, share in zip(("Enlarged Cardiomediastinum", "Lung Opacity"), through, strict=True):
        rates[name] = max(0.01, (rates[name] - share) / (1 - share))
    return np.array([NormalDist().inv_cdf(1 - rates[name]) for name in DISEASES])


OWN_CUTS: dict[str, np.ndarray] = {split: _own_cuts(split) for split in PREVALENCE}


def expert_labels(present: set[str]) -> Labels:
    """The labels an expert gives: 1 and 0 only; No Finding where only devices are present."""
    labels: Labels = {name: int(name in present) for name in OBSERVATIONS}
    labels["No Finding"] = int(not present - {"Support Devices"})
    return labels


def report_labels(present: set[str], rng: Rng) -> Labels:
    """The labels that mining the report gives: 1, 0, -1 (uncertain) or None (not mentioned)."""
    labels: Labels = {"No Finding": None}
    for name in DISEASES:
        odds = STATE_ODDS[name][int(name in present)]
        labels[name] = (1, 0, -1, None)[int(np.searchsorted(odds, rng.random()))]
    mentioned = any(labels[name] in (1, -1) for name in DISEASES if name != "Support Devices")
    if not mentioned and rng.random() < NO_FINDING_RATE:
        labels["No Finding"] = 1
    return {name: labels[name] for name in OBSERVATIONS}


def _state_odds(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative chances of the states 1, 0, -1 for an absent and for a present finding.

    The shares over all studies come out as in `REPORTED`. "Uncertain" is three times as likely
    where the finding is there, and "no" five times as likely where it is not.
    """
    true = PREVALENCE["train"][name]
    one, zero, unsure = REPORTED[name]
    hit = SENSITIVITY[name]
    ones = ((one - hit * true) / (1 - true), hit)
    zeros = _split(zero, true, 0.2)
    doubts = _split(unsure, true, 3.0)
    states = [np.cumsum([max(ones[k], 0.0), zeros[k], doubts[k]]) for k in (0, 1)]
    return states[0], states[1]


def _split(share: float, true: float, ratio: float) -> tuple[float, float]:
    """Split an overall share into (absent, present) rates whose ratio present/absent is given."""
    absent = share / (1 - true + ratio * true)
    return absent, ratio * absent


STATE_ODDS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    name: _state_odds(name) for name in DISEASES
}
