"""Grad-CAM of all 14 classes, DenseNet-121 at 320 px, beside a bare forward and class by class.

One batch in memory, the same for all. The peers explain one class a call, as their users do; the
bare forward has the faster of the two memory formats.
"""

from __future__ import annotations

from captum.attr import LayerGradCam
from chexseg_platform.models.classifier import Classifier
from chexseg_platform.saliency.gradcam import explain_batch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.hotpath import BATCH, CLASSES, autocast, fastest_format, forward, material
from tests.benchmarks.material import Place

NAME = "grad-cam, 14 classes, densenet121 at 320"


def run(place: Place) -> list[Row]:
    """Compare with the forward, with pytorch-grad-cam and with Captum."""
    model, images = material()
    best = model.to(memory_format=fastest_format(model, images))

    def ours() -> float:
        with autocast():
            return rate_of(BATCH, lambda: explain_batch(best, images))

    few = images[:2]
    return [
        compare(NAME, "images/s", ours, lambda: forward(best, images), "bare forward", aim=0.95),
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


def _pytorch_grad_cam(model: Classifier, images: Tensor) -> None:
    with GradCAM(model=model, target_layers=[model.last]) as method:
        for k in range(CLASSES):
            method(input_tensor=images, targets=[ClassifierOutputTarget(k)] * len(images))


def _captum(model: Classifier, images: Tensor) -> None:
    method = LayerGradCam(model, model.last)
    for k in range(CLASSES):
        method.attribute(images, target=k, relu_attributions=True)
