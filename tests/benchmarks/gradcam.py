"""Grad-CAM of all 14 classes, DenseNet-121 at 320 px, beside a bare forward and class by class.

One batch in memory, the same for all. The peers explain one class a call, as their users do; the
bare forward has the faster of the two memory formats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.attr import LayerGradCam
from chexseg_platform.models.classifier import Classifier, ClassifierSpec, build_classifier
from chexseg_platform.saliency.gradcam import explain_batch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.material import Place

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZE, BATCH, CLASSES = 320, 8, 14
NAME = "grad-cam, 14 classes, densenet121 at 320"


def run(place: Place) -> list[Row]:
    """Compare with the forward, with pytorch-grad-cam and with Captum."""
    model, images = material()
    best = model.to(memory_format=fastest_format(model, images))

    def ours() -> float:
        return rate_of(BATCH, lambda: explain_batch(best, images))

    few = images[:2]
    return [
        compare(NAME, "images/s", ours, lambda: _forward(best, images), "bare forward", aim=0.95),
        compare(
            NAME + " ",
            "images/s",
            ours,
            lambda: rate_of(len(few), lambda: _pytorch_grad_cam(model, few)),
            "pytorch-grad-cam, class by class",
            aim=25,
            repetitions=1,
        ),
        compare(
            NAME + "  ",
            "images/s",
            ours,
            lambda: rate_of(len(few), lambda: _captum(model, few)),
            "Captum LayerGradCam, class by class",
            aim=9,
            repetitions=1,
        ),
    ]


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
        _forward(model, images)
        found[name] = max(_forward(model, images) for _ in range(3))
    return max(found, key=found.__getitem__)


def _forward(model: Classifier, images: Tensor) -> float:
    return rate_of(len(images), _synchronised(lambda: model(images)))


def _synchronised(work: Callable[[], Tensor]) -> Callable[[], None]:
    @torch.inference_mode()
    def done() -> None:
        work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return done


def _pytorch_grad_cam(model: Classifier, images: Tensor) -> None:
    with GradCAM(model=model, target_layers=[model.last]) as method:
        for k in range(CLASSES):
            method(input_tensor=images, targets=[ClassifierOutputTarget(k)] * len(images))


def _captum(model: Classifier, images: Tensor) -> None:
    method = LayerGradCam(model, model.last)
    for k in range(CLASSES):
        method.attribute(images, target=k, relu_attributions=True)
