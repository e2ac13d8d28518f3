"""What the hot path is measured on: the papers' classifier, a batch, and its bare forward."""

from __future__ import annotations

import torch
from chexseg_platform.models.classifier import Classifier, ClassifierSpec, build_classifier
from torch import Tensor

from tests.benchmarks.harness import rate_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZE, BATCH, CLASSES = 320, 8, 14


def material(batch: int = BATCH) -> tuple[Classifier, Tensor]:
    """Return the papers' classifier with random weights, and a batch."""
    torch.manual_seed(0)
    model = build_classifier(ClassifierSpec(encoder="densenet121")).eval().to(DEVICE)
    return model, torch.randn(batch, 1, SIZE, SIZE, device=DEVICE)


def fastest_format(model: Classifier, images: Tensor) -> torch.memory_format:
    """Return the memory format in which the bare forward is faster."""
    found = {}
    for name in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=name)
        forward(model, images)
        found[name] = max(forward(model, images) for _ in range(3))
    return max(found, key=found.__getitem__)


def forward(model: Classifier, images: Tensor) -> float:
    """Return the bare forward's images a second."""
    with torch.inference_mode(), autocast():
        return rate_of(len(images), lambda: model(images))


def autocast() -> torch.autocast:
    """Return what both sides run in: bfloat16 on a GPU, float32 elsewhere, as the job does."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")
