"""Finished classifiers and boundary networks, loaded onto a worker, ready to explain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from chexseg_platform import config
from chexseg_platform.artifacts import Artifact
from chexseg_platform.models.boundary import BoundaryNetwork, load_boundary
from chexseg_platform.models.classifier import Classifier, load_classifier
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.saliency.memory import budget_of
from chexseg_platform.saliency.pseudolabel import PseudoLabeller


def labeller_of(
    settings: config.Saliency,
    classifiers: Sequence[Artifact],
    boundary: Artifact | None = None,
    thresholds: list[float] | None = None,
    *,
    device: torch.device,
    memory: float | str = "auto",
) -> PseudoLabeller:
    """Load every checkpoint of some classifiers onto a device, ready to cut masks.

    Args:
        boundary: IRNet's network, where the settings refine maps.
        memory: `resources.saliency_memory`.
    """
    models = [model for classifier in classifiers for model in load_models(classifier)]
    network = None if boundary is None else load_network(boundary)
    budget = budget_of(memory, device)
    aurocs = [each for classifier in classifiers for each in aurocs_of(classifier, settings.names)]
    return PseudoLabeller(models, settings, device, thresholds, budget, network, aurocs)


def load_models(classifier: Artifact) -> list[tuple[Classifier, Preprocess]]:
    """Return every checkpoint of a classifier artifact with its preprocessing."""
    models = []
    for number in range(int(classifier.summary["checkpoints"])):
        model, meta = load_classifier(files_of(classifier, number))
        models.append((model, Preprocess.from_dict(meta["preprocess"])))
    return models


def aurocs_of(classifier: Artifact, names: Sequence[str]) -> list[list[float]]:
    """Return each checkpoint's validation AUROC of some observations; NaN where there is none."""
    found = []
    for number in range(int(classifier.summary["checkpoints"])):
        metrics = classifier.parts(f"checkpoints/{number:02d}/")[0].info
        each = [metrics.get(f"auroc {name}") for name in names]
        found.append([math.nan if value is None else float(value) for value in each])
    return found


def load_network(boundary: Artifact) -> tuple[BoundaryNetwork, Preprocess]:
    """Return the boundary network of an artifact with its preprocessing."""
    network, meta = load_boundary(files_of(boundary, 0))
    return network, Preprocess.from_dict(meta["preprocess"])


def files_of(artifact: Artifact, number: int) -> dict[str, bytes]:
    parts = artifact.parts(f"checkpoints/{number:02d}/")
    return {part.name.rpartition("/")[2]: artifact.read(part.name) for part in parts}
