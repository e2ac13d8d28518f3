"""Closed-form Grad-CAM: by hand, against autograd and against Captum."""

import math

import pytest
import torch
from captum.attr import LayerGradCam
from chexseg_platform.models.classifier import Classifier, ClassifierSpec, build_classifier
from chexseg_platform.saliency.gradcam import (
    Explain,
    explain_batch,
    gradcam,
    gradcam_autograd,
)
from chexseg_platform.saliency.threshold import heat_to_mask
from torch import Tensor, nn

CLASSES = ("a", "b", "c")


def classifier(encoder: str, three_class: bool = False, stride: int = 32) -> Classifier:
    torch.manual_seed(3)
    spec = ClassifierSpec(
        encoder=encoder, classes=CLASSES, three_class=three_class, output_stride=stride
    )
    model = build_classifier(spec).eval()
    # Both signs, some heat in every class, and logits that do not saturate the sigmoid.
    with torch.no_grad():
        mean = model.features(torch.randn(4, 1, 64, 64)).abs().mean()
        nn.init.uniform_(model.head.weight, -0.6, 1.0)
        model.head.weight /= mean * model.head.in_features
    return model


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-5 of the largest value, class by class."""
    assert theirs.amax(dim=(0, 2, 3)).min() > 0
    scale = theirs.amax(dim=(0, 2, 3), keepdim=True)
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-5)


def test_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]])  # two channels, one row of two cells
    weight = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    heat = gradcam(features, weight)
    assert heat[0, :, 0].tolist() == [[0.0, 1.0], [4.0, 0.0]]
    half = gradcam(features, weight, torch.zeros(1, 2), "probability")
    torch.testing.assert_close(half, heat / 4)


def test_before_the_relu_by_hand() -> None:
    # Half of the cells are positive, so the mean gradient is half of the weight over 2 cells.
    features = torch.tensor([[[[4.0, -2.0]]]])
    heat = gradcam(features, torch.tensor([[2.0], [-2.0]]), features="pre-relu")
    assert heat[0, :, 0].tolist() == [[2.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("explain", ["logit", "probability"])
def test_before_the_relu_equals_captum(explain: Explain) -> None:
    model = classifier("densenet121")
    image = torch.randn(2, 1, 96, 96)

    def score(x: Tensor) -> Tensor:
        logits = model(x)
        return logits if explain == "logit" else model.probabilities(logits)

    captum = LayerGradCam(score, model.encoder.features.norm5)  # type: ignore[union-attr]
    theirs = torch.cat(
        [captum.attribute(image, target=k, relu_attributions=True) for k in range(3)], dim=1
    ).detach()
    ours, _ = explain_batch(model, image, explain, "pre-relu")
    close(ours, theirs)
    with pytest.raises(ValueError, match="resnet18 ends after its last ReLU"):
        explain_batch(classifier("resnet18"), image, explain, "pre-relu")


@pytest.mark.parametrize("encoder", ["resnet18", "densenet121"])
@pytest.mark.parametrize("explain", ["logit", "probability"])
def test_equals_captum(encoder: str, explain: Explain) -> None:
    model = classifier(encoder)
    image = torch.randn(2, 1, 96, 96)

    def score(x: Tensor) -> Tensor:
        logits = model(x)
        return logits if explain == "logit" else model.probabilities(logits)

    captum = LayerGradCam(score, model.last)
    theirs = torch.cat(
        [captum.attribute(image, target=k, relu_attributions=True) for k in range(3)], dim=1
    ).detach()
    ours, probability = explain_batch(model, image, explain)
    close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(probability, model(image).sigmoid())


@pytest.mark.parametrize("explain", ["logit", "probability"])
def test_three_class_equals_captum(explain: Explain) -> None:
    model = classifier("resnet18", three_class=True, stride=8)
    image = torch.randn(2, 1, 64, 64)

    def score(x: Tensor) -> Tensor:
        logits = model(x)
        return logits[:, 2::3] if explain == "logit" else model.probabilities(logits)

    captum = LayerGradCam(score, model.last)
    theirs = torch.cat(
        [captum.attribute(image, target=k, relu_attributions=True) for k in range(3)], dim=1
    ).detach()
    ours, _ = explain_batch(model, image, explain)
    assert ours.shape == (2, 3, 8, 8)
    close(ours, theirs)


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "efficientnet-b0"])
def test_equals_autograd(encoder: str) -> None:
    model = classifier(encoder, stride=16)
    image = torch.randn(2, 1, 64, 64)
    ours, _ = explain_batch(model, image)
    close(ours, gradcam_autograd(model, model.last, image, range(3)).detach())


def test_autograd_serves_other_heads_and_frozen_models() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 4, 3)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).requires_grad_(
        False
    )
    image = torch.randn(3, 1, 8, 8)
    theirs = LayerGradCam(model, layer).attribute(image, target=1, relu_attributions=True)
    ours = gradcam_autograd(model, layer, image, [1])
    assert ours.shape == (3, 1, 6, 6)
    torch.testing.assert_close(ours, theirs)


def test_low_precision_features_are_summed_in_float32() -> None:
    features = torch.rand(2, 512, 4, 4).bfloat16()
    weight = torch.randn(3, 512)
    assert torch.equal(gradcam(features, weight), gradcam(features.float(), weight))


def test_maps_go_on_to_masks() -> None:
    heat, probability = explain_batch(classifier("resnet18"), torch.randn(2, 1, 64, 64))
    made = heat_to_mask(heat, 64, allowed_BK=probability > 0)
    assert made.mask_BKSS.flatten(2).any(-1).all()


def test_bad_requests() -> None:
    features, weight = torch.rand(1, 2, 2, 2), torch.rand(3, 2)
    with pytest.raises(ValueError, match="needs the logits"):
        gradcam(features, weight, explain="probability")
    with pytest.raises(ValueError, match="'logit' or a 'probability'"):
        gradcam(features, weight, explain="score")  # type: ignore[arg-type]
    twice = nn.ReLU()
    with pytest.raises(ValueError, match="ran 2 times"):
        gradcam_autograd(lambda x: twice(twice(x)), twice, torch.rand(1, 1, 2, 2), [0])


def test_whoever_is_very_sure_still_has_a_map():
    """1 - p is 0 in float32 at a logit of 20; p (1 - p) is not."""
    features, weight = torch.rand(1, 3, 2, 2), torch.ones(1, 3)
    sure = gradcam(features, weight, torch.full((1, 1), 20.0), "probability")
    plain = gradcam(features, weight)
    expected = 1 / (math.exp(20.0) * (1 + math.exp(-20.0)) ** 2)
    torch.testing.assert_close(sure, plain * expected, rtol=1e-5, atol=0)
