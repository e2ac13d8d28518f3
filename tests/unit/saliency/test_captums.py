"""Captum behind one door: the same numbers, one map a wanted class, nothing left behind."""

import copy

import pytest
import torch
from captum.attr import GuidedBackprop, InputXGradient, Occlusion
from chexseg_platform.models.classifier import Classifier, ClassifierSpec, build_classifier
from chexseg_platform.saliency import captums
from chexseg_platform.saliency.captums import NAMES, captum_maps, separate_relus
from torch import Tensor, nn

SIDE = 32
WANTED = torch.zeros(3, 14, dtype=torch.bool)
WANTED[0, 2] = WANTED[0, 9] = WANTED[2, 9] = WANTED[2, 13] = WANTED[2, 0] = True


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ClassifierSpec(encoder="resnet18", output_stride=8)).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def wide_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of occlusion: a fifth of the passes."""
    monkeypatch.setattr(captums, "WINDOW", 1 / 4)


@pytest.mark.parametrize("encoder", ["resnet18", "densenet121"])
def test_separate_relus_compute_the_same(encoder: str, images: Tensor) -> None:
    torch.manual_seed(0)
    model = build_classifier(ClassifierSpec(encoder=encoder)).eval()
    apart = separate_relus(model)
    torch.testing.assert_close(apart(images), model(images), rtol=1e-4, atol=1e-6)
    graph = apart.graph  # type: ignore[union-attr]
    targets = [node.target for node in graph.nodes if str(node.target).startswith("relu_")]
    assert len(targets) == len(set(targets)) > 10
    assert not any(node.target in (torch.relu, nn.functional.relu) for node in graph.nodes)


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_there_where_wanted_and_nowhere_else(
    name: str, classifier: Classifier, images: Tensor
) -> None:
    found = captum_maps(name, classifier)(images, WANTED)
    assert found.shape == (3, 14, SIDE, SIDE)
    assert torch.equal(found.abs().flatten(2).sum(2) > 0, WANTED)


@pytest.mark.parametrize("rows", [1, 2, 32])
def test_input_x_gradient_is_captums_class_by_class(
    classifier: Classifier, images: Tensor, rows: int
) -> None:
    found = captum_maps("input-x-gradient", classifier)(images, WANTED, rows)
    for image, class_ in WANTED.nonzero().tolist():
        one = images[image : image + 1].clone().requires_grad_(True)
        expected = InputXGradient(classifier).attribute(one, target=class_).sum(1)[0].detach()
        torch.testing.assert_close(found[image, class_], expected, rtol=1e-3, atol=1e-7)


def test_deeplift_is_complete(classifier: Classifier, images: Tensor) -> None:
    found = captum_maps("deeplift", classifier)(images, WANTED).flatten(2).sum(2)
    with torch.inference_mode():
        change = classifier(images) - classifier(torch.zeros_like(images))
    torch.testing.assert_close(found[WANTED], change[WANTED], rtol=1e-3, atol=1e-4)


def test_guided_backprop_lets_no_negative_gradient_through() -> None:
    # y = relu(x) - relu(2 x) + relu(-x), all by one module: at x = 1 the first path passes 1, the
    # second would pass -2 and is stopped, the third is shut.
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return (self.relu(x * 1) - self.relu(2 * x) + nn.functional.relu(-x)).flatten(1)

    apart = separate_relus(Reused().eval())
    with pytest.warns(UserWarning, match="Setting"):
        given = GuidedBackprop(apart).attribute(
            torch.ones(1, 1, 1, 1, requires_grad=True), target=0
        )
    assert given.item() == 1.0


def test_occlusion_by_hand(classifier: Classifier, images: Tensor) -> None:
    found = captum_maps("occlusion", classifier)(images, WANTED, rows=4)
    expected = Occlusion(classifier).attribute(
        images[2:], sliding_window_shapes=(1, 8, 8), strides=(1, 4, 4), target=13
    )[0, 0]
    torch.testing.assert_close(found[2, 13], expected, rtol=1e-4, atol=1e-5)


def test_three_class_explains_the_positive_logit(images: Tensor) -> None:
    torch.manual_seed(0)
    spec = ClassifierSpec(encoder="resnet18", three_class=True)
    model = build_classifier(spec).eval()
    found = captum_maps("input-x-gradient", model)(images, WANTED)
    one = images[:1].clone().requires_grad_(True)
    model(one)[0, 3 * 9 + 2].backward()
    assert one.grad is not None
    torch.testing.assert_close(found[0, 9], (one * one.grad).detach()[0, 0], rtol=1e-3, atol=1e-7)


def test_the_classifier_is_left_as_it_was(classifier: Classifier, images: Tensor) -> None:
    before = copy.deepcopy(classifier.state_dict())
    logits = classifier(images).detach()
    for name in NAMES:
        captum_maps(name, classifier)(images, WANTED[:, :])
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert torch.equal(classifier(images), logits)
    assert not any(module._forward_hooks for module in classifier.modules())


def test_nothing_wanted_gives_zeros(classifier: Classifier, images: Tensor) -> None:
    found = captum_maps("gradient", classifier)(images, torch.zeros_like(WANTED))
    assert not found.any()


def test_an_unknown_name_lists_the_names(classifier: Classifier) -> None:
    with pytest.raises(ValueError, match="deeplift, gradient"):
        captum_maps("lime", classifier)
