"""Every method by name, on a real encoder: its reference, its classes, its settings."""

import math

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from chexseg_platform.config import Saliency
from chexseg_platform.models.classifier import Classifier, ClassifierSpec, build_classifier
from chexseg_platform.saliency.methods import method_of, probabilities, scores
from torch import Tensor

SIDE = 32
WANTED = torch.zeros(3, 14, dtype=torch.bool)
WANTED[0, 2] = WANTED[0, 9] = WANTED[2, 9] = True
ALL = ("grad-cam", "integrated-gradients", "deeplift", "gradient", "guided-backprop",
       "input-x-gradient", "occlusion")  # fmt: skip


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ClassifierSpec(encoder="resnet18", output_stride=8)).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def explain(classifier: Classifier, images: Tensor, **settings: object):
    return method_of(Saliency.model_validate(settings), classifier)(images, WANTED)


@pytest.mark.parametrize("name", ALL)
def test_maps_of_what_is_wanted_and_the_classifiers_probabilities(
    name: str, classifier: Classifier, images: Tensor
) -> None:
    found = explain(classifier, images, method=name)
    assert found.heat_BKhw.shape[:2] == (3, 14)
    assert found.heat_BKhw.min() >= 0
    assert found.heat_BKhw[WANTED].flatten(1).sum(1).min() > 0
    torch.testing.assert_close(found.probability_BK, classifier(images).sigmoid())


def test_grad_cam_is_captums(classifier: Classifier, images: Tensor) -> None:
    found = explain(classifier, images, method="grad-cam", explain="probability")
    expected = LayerGradCam(lambda x: classifier(x).sigmoid(), classifier.last).attribute(
        images, target=9, relu_attributions=True
    )
    scale = expected.max().detach()
    torch.testing.assert_close(
        found.heat_BKhw[:, 9] / scale, expected[:, 0].detach() / scale, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("what", ["logit", "probability"])
def test_integrated_gradients_are_captums(
    what: str, classifier: Classifier, images: Tensor
) -> None:
    wish = {"baselines": ["mean"], "steps": 7, "tolerance": None}
    found = explain(
        classifier, images, method="integrated-gradients", explain=what, integrated=wish,
        sign="absolute",
    )  # fmt: skip
    method = IntegratedGradients(lambda x: scores(classifier, x, what))
    expected = method.attribute(images, target=9, n_steps=7, method="gausslegendre").sum(1)
    scale = expected.abs().max()
    torch.testing.assert_close(
        found.heat_BKhw[2, 9] / scale, expected[2].abs().float() / scale, rtol=0, atol=1e-5
    )
    assert found.steps_BK is not None
    assert found.error_BK is not None
    assert found.steps_BK[WANTED].eq(7).all()
    assert torch.equal(found.error_BK.isfinite(), WANTED)


def test_several_baselines_are_averaged(classifier: Classifier, images: Tensor) -> None:
    def maps(*names: str) -> Tensor:
        wish = {"baselines": list(names), "steps": 3, "tolerance": None}
        found = explain(
            classifier, images, method="integrated-gradients", integrated=wish, sign="positive"
        )
        return found.heat_BKhw[WANTED]

    black, blurred, both = maps("black"), maps("blurred"), maps("black", "blurred")
    assert not torch.allclose(black, blurred)
    # The positive part is taken of the mean, so it is at most the mean of positive parts.
    assert (both <= (black + blurred) / 2 + 1e-9).all()
    assert both.sum() > 0


def test_smoothing_is_the_same_again_and_no_noise_changes_nothing(
    classifier: Classifier, images: Tensor
) -> None:
    def maps(smooth: int, noise: float) -> Tensor:
        wish = {"baselines": ["mean"], "steps": 3, "tolerance": None, "smooth": smooth,
                "noise": noise}  # fmt: skip
        return explain(classifier, images, method="integrated-gradients", integrated=wish).heat_BKhw

    plain = maps(0, 0.1)
    torch.testing.assert_close(maps(2, 0.0), plain)
    assert torch.equal(maps(2, 0.2), maps(2, 0.2))
    assert not torch.allclose(maps(2, 0.2), plain)


def test_smoothing_leaves_baselines_alone_and_is_a_mean_over_copies(
    classifier: Classifier, images: Tensor
) -> None:
    """Against the definition: copies by hand, each from the clean image's blackest pixel."""
    wish = {"baselines": ["black"], "steps": 3, "tolerance": None, "smooth": 2, "noise": 0.5}
    found = explain(
        classifier, images, method="integrated-gradients", explain="logit", integrated=wish,
        sign="absolute",
    )  # fmt: skip
    generator, one = torch.Generator().manual_seed(2), images[2:]
    range_ = one.max() - one.min()
    method, maps = IntegratedGradients(classifier), []
    for _ in range(2):
        copy = one + 0.5 * range_ * torch.randn(one.shape[1:], generator=generator)
        black = torch.full_like(one, float(one.min()))
        given = method.attribute(copy, black, target=9, n_steps=3, method="gausslegendre")
        maps.append(given.sum(1)[0].float())
    expected = torch.stack(maps).mean(0).abs()
    torch.testing.assert_close(
        found.heat_BKhw[2, 9] / expected.max(), expected / expected.max(), rtol=0, atol=1e-5
    )


def test_scores_of_a_three_class_classifier(images: Tensor) -> None:
    torch.manual_seed(1)
    model = build_classifier(ClassifierSpec(encoder="resnet18", three_class=True)).eval()
    logits = model(images)
    assert torch.equal(scores(model, images, "logit")[:, 4], logits[:, 14])
    pair = logits[:, [12, 14]].softmax(1)[:, 1]
    torch.testing.assert_close(scores(model, images, "probability")[:, 4], pair)
    torch.testing.assert_close(probabilities(model, images)[:, 4], pair)


def test_an_image_that_gives_no_number_is_told(classifier: Classifier, images: Tensor) -> None:
    images[0, 0, 0, 0] = math.nan
    found = explain(classifier, images, method="integrated-gradients", integrated={"most_steps": 8})
    assert found.error_BK is not None
    assert found.error_BK[0, 9].isnan()
    assert found.error_BK[2, 9].isfinite()
