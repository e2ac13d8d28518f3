"""The classifier's head starts at the prevalence of each observation."""

import numpy as np
import pytest
import torch
from chexseg_platform import config
from chexseg_platform.findings import OBSERVATIONS
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier
from chexseg_platform.training.classification import start_at_prevalence

NAN = float("nan")


def labels(column: list[float]) -> np.ndarray:
    """Labels whose second observation is `column`, the others absent."""
    array = np.zeros((len(column), len(OBSERVATIONS)), dtype=np.float32)
    array[:, 1] = column
    return array


@pytest.mark.parametrize(
    ("policy", "blank", "probability"),
    [
        # 8 rows: 3 present, 1 absent, 2 uncertain, 2 unmentioned; one of each is added.
        ("ignore", "negative", 4 / 8),
        ("zeros", "negative", 4 / 10),
        ("ones", "negative", 6 / 10),
        ("ignore", "ignore", 4 / 6),
    ],
)
def test_the_bias_is_the_log_odds_of_the_labels(
    policy: str, blank: str, probability: float
) -> None:
    model = build_classifier(ClassifierSpec(encoder="resnet18"))
    settings = config.Classifier(encoder="resnet18", uncertain=policy, blank=blank)  # type: ignore[arg-type]
    start_at_prevalence(model, labels([1, 1, 1, 0, -1, -1, NAN, NAN]), settings)
    assert torch.sigmoid(model.head.bias[1]).item() == pytest.approx(probability, abs=1e-6)


def test_three_classes_start_at_their_three_shares() -> None:
    model = build_classifier(ClassifierSpec(encoder="resnet18", three_class=True))
    settings = config.Classifier(encoder="resnet18", uncertain="three-class")
    start_at_prevalence(model, labels([1, 1, 1, 0, -1, -1, NAN]), settings)
    shares = torch.softmax(model.head.bias[3:6], dim=0)
    # 2 negative, 2 uncertain, 3 positive, and two thirds of a row for each: 9 in all.
    expected = torch.tensor([8 / 3, 8 / 3, 11 / 3]) / 9
    assert torch.allclose(shares, expected, atol=1e-6)
