"""How near the phantom comes to the real data: the figures, and the published ones beside them.

The phantom was set against these figures once and then left alone: prevalence and co-occurrence
(rates in `labels`), agreement between readers (`readers.SPREAD`) and classifier AUROC
(`lesions.CONTRAST`). No segmentation was trained while it was set.

Published figures are CheXlocalize's, test split: agreement is the second readers' mean IoU with
the ground truth over images where either marked something; AUROC is that of an ensemble of
DenseNets trained on all of CheXpert, here that of one small ResNet-18 on 3,000 phantoms.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...findings import CHEXLOCALIZE_NAMES, FINDINGS
from ..overlaps import overlaps
from .layout import IMAGE_ROOT

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Figures of one finding; None where they were not measured.

    Attributes:
        agreement: mean IoU of the second reader with the truth, union non-empty, 0 to 1.
        auroc: of a classifier against expert labels, 0 to 1.
        prevalence: share of images with the finding, 0 to 1.
    """

    agreement: float | None
    auroc: float | None
    prevalence: float


PUBLISHED: dict[str, Figures] = {
    "Enlarged Cardiomediastinum": Figures(0.564, 0.549, 0.445),
    "Cardiomegaly": Figures(0.712, 0.899, 0.262),
    "Lung Lesion": Figures(0.424, 0.906, 0.021),
    "Lung Opacity": Figures(0.232, 0.894, 0.463),
    "Edema": Figures(0.307, 0.903, 0.124),
    "Consolidation": Figures(0.148, 0.839, 0.052),
    "Atelectasis": Figures(0.122, 0.818, 0.265),
    "Pneumothorax": Figures(0.393, 0.993, 0.015),
    "Pleural Effusion": Figures(0.213, 0.955, 0.180),
    "Support Devices": Figures(0.438, 0.963, 0.470),
}
"""CheXlocalize, test split (January 2021 notebook outputs; 668 images)."""


PHANTOM: dict[str, Figures] = {
    "Enlarged Cardiomediastinum": Figures(0.557, 0.561, 0.442),
    "Cardiomegaly": Figures(0.718, 0.907, 0.249),
    "Lung Lesion": Figures(0.384, 0.592, 0.031),
    "Lung Opacity": Figures(0.242, 0.781, 0.452),
    "Edema": Figures(0.295, 0.909, 0.108),
    "Consolidation": Figures(0.155, 0.761, 0.039),
    "Atelectasis": Figures(0.116, 0.749, 0.253),
    "Pneumothorax": Figures(0.398, 0.808, 0.012),
    "Pleural Effusion": Figures(0.206, 0.923, 0.166),
    "Support Devices": Figures(0.425, 0.947, 0.442),
}
"""The phantom as it is: agreement and prevalence on 668 test images at 256 pixels, seed 0.

AUROC: ResNet-18 from random weights, 3,000 training images at 96 pixels (seed 3), six epochs, noisy
labels (blank 0, uncertain left out), tested per study on 1,000 images of the expert splits. It
falls short where the training set holds few examples (about a hundred nodules against CheXpert's
thousands); contrast was not raised to make up for that. The test holds 11 nodules and 23
pneumothoraces, so those two are rough.
"""

PUBLISHED_PAIRS: dict[tuple[str, str], float] = {
    ("Cardiomegaly", "Edema"): 0.17,
    ("Lung Opacity", "Pleural Effusion"): 0.21,
    ("Edema", "Pleural Effusion"): 0.13,
    ("Pleural Effusion", "Support Devices"): 0.15,
    ("Edema", "Support Devices"): 0.11,
    ("Lung Opacity", "Support Devices"): 0.11,
    ("Atelectasis", "Pleural Effusion"): 0.08,
    ("Edema", "Pneumothorax"): -0.13,
    ("Lung Opacity", "Edema"): 0.04,
}
"""Correlations of "labelled positive" over the studies of CheXpert's train.csv, the larger ones."""


def measure(root: Path, split: str = "test", scores: Floats | None = None) -> dict[str, Figures]:
    """Compute the figures of a written phantom's expert split ("valid" or "test").

    Args:
        scores: (images, 10) classifier scores in the order of the split's table, or None.
    """
    agreement = reader_agreement(root, split)
    truth = label_table(root, split)
    rates = truth.mean(axis=0)
    return {
        finding: Figures(
            agreement[finding],
            None if scores is None else auroc(truth[:, k], scores[:, k]),
            float(rates[k]),
        )
        for k, finding in enumerate(FINDINGS)
    }


def reader_agreement(root: Path, split: str) -> dict[str, float | None]:
    """Mean IoU of second reader and truth per finding, over images where either marked it."""
    short = "val" if split == "valid" else "test"
    truth, second = (
        _load(Path(root) / "CheXlocalize" / f"{reader}_segmentations_{short}.json")
        for reader in ("gt", "hb")
    )
    return {
        finding: _agreement(
            [truth[image][name] for image in truth], [second[image][name] for image in truth]
        )
        for finding, name in CHEXLOCALIZE_NAMES.items()
    }


def _agreement(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> float | None:
    heights, widths = np.array([mask["size"] for mask in first]).T
    counts = [mask["counts"] for mask in first], [mask["counts"] for mask in second]
    mine, theirs, shared = overlaps(counts[0], counts[1], heights, widths).T
    union = mine + theirs - shared
    return float(np.mean(shared[union > 0] / union[union > 0])) if union.any() else None


def label_table(root: Path, split: str) -> Floats:
    """Labels (images, 10) of a split's table: 1, 0, -1, NaN for blank."""
    name = "test_labels.csv" if split == "test" else f"{split}.csv"
    with (Path(root) / IMAGE_ROOT[split] / name).open(newline="") as file:
        rows = [[row[finding] for finding in FINDINGS] for row in csv.DictReader(file)]
    return np.array([[float(v) if v else np.nan for v in row] for row in rows])


def co_occurrence(labels: Floats) -> Floats:
    """Correlation (10, 10) of "labelled positive" between findings; NaN where one never is."""
    positive = (labels == 1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.corrcoef(positive, rowvar=False))


def pair_table(labels: Floats) -> str:
    """Correlations of a training table (images, 10) beside CheXpert's, as a Markdown table."""
    found = co_occurrence(labels)
    lines = ["| Labelled together | Phantom | CheXpert |", "|---|---|---|"]
    for (a, b), theirs in PUBLISHED_PAIRS.items():
        ours = found[FINDINGS.index(a), FINDINGS.index(b)]
        lines.append(f"| {a} and {b} | {ours:+.2f} | {theirs:+.2f} |")
    return "\n".join(lines)


def auroc(truth: Floats, scores: Floats) -> float | None:
    """Area under the ROC curve by ranks, ties counted half; None with one class only."""
    positive = truth == 1
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return None
    _, first, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[first]
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def table(figures: dict[str, Figures], published: dict[str, Figures] = PUBLISHED) -> str:
    """The figures beside the published ones, as a Markdown table (published in brackets)."""
    lines = ["| Finding | Agreement of readers (IoU) | Classifier AUROC | Prevalence |"]
    lines.append("|---|---|---|---|")
    for finding in FINDINGS:
        ours, theirs = figures[finding], published[finding]
        cells = [
            f"{_number(getattr(ours, name))} ({_number(getattr(theirs, name))})"
            for name in ("agreement", "auroc", "prevalence")
        ]
        lines.append(f"| {finding} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".lstrip("0") or "0"


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
