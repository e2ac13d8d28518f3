"""Classifier, label policies and their loss, answers by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from chexseg_platform.models import checkpoints
from chexseg_platform.models.classifier import (
    BadLabels,
    Blank,
    ClassifierSpec,
    Policy,
    build_classifier,
    check_labels,
    classification_loss,
    dump_classifier,
    load_classifier,
    targets,
    to_probabilities,
)
from chexseg_platform.models.preprocess import Preprocess

NAN = float("nan")
LABELS = torch.tensor([[1.0, 0.0, -1.0, NAN]])


@pytest.mark.parametrize("encoder", ["resnet18", "densenet121", "tu-mobilenetv3_small_100"])
@pytest.mark.parametrize("three_class", [False, True])
def test_shapes_and_features(encoder: str, three_class: bool) -> None:
    spec = ClassifierSpec(encoder=encoder, in_channels=3, three_class=three_class)
    model = build_classifier(spec).eval()
    with torch.no_grad():
        features = model.features(torch.randn(2, 3, 64, 64))
        logits = model.from_features(features)
    assert features.shape[2:] == (2, 2)
    assert logits.shape == (2, 42 if three_class else 14)
    assert model.probabilities(logits).shape == (2, 14)
    if encoder == "densenet121":
        assert features.min() == 0  # after the ReLU that follows norm5


def test_forward_is_pooled_features_through_the_head() -> None:
    model = build_classifier(ClassifierSpec(encoder="resnet18", classes=("a", "b"))).eval()
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        pooled = model.features(image).flatten(2).mean(-1)
        torch.testing.assert_close(
            model(image), F.linear(pooled, model.head.weight, model.head.bias)
        )


def test_three_class_probability_is_softmax_over_positive_and_negative() -> None:
    logits = torch.tensor([[0.2, 9.0, 1.3, -1.0, 0.0, -2.0]])
    expected = [
        math.exp(1.3) / (math.exp(1.3) + math.exp(0.2)),
        math.exp(-2) / (math.exp(-2) + math.exp(-1)),
    ]
    torch.testing.assert_close(to_probabilities(logits, True), torch.tensor([expected]))
    torch.testing.assert_close(to_probabilities(logits, False), torch.sigmoid(logits))


@pytest.mark.parametrize(
    ("policy", "blank", "target", "weight"),
    [
        ("ignore", "negative", [1, 0, None, 0], [1, 1, 0, 1]),
        ("ignore", "ignore", [1, 0, None, None], [1, 1, 0, 0]),
        ("zeros", "negative", [1, 0, 0, 0], [1, 1, 1, 1]),
        ("ones", "negative", [1, 0, 1, 0], [1, 1, 1, 1]),
        ("ones", "ignore", [1, 0, 1, None], [1, 1, 1, 0]),
        ("three-class", "negative", [2, 0, 1, 0], [1, 1, 1, 1]),
        ("three-class", "ignore", [2, 0, 1, None], [1, 1, 1, 0]),
    ],
)
def test_policies(
    policy: Policy, blank: Blank, target: list[int | None], weight: list[int]
) -> None:
    got, used = targets(LABELS, policy, blank)
    assert used.tolist() == [weight]
    for value, wanted in zip(got[0].tolist(), target, strict=True):
        assert wanted is None or value == wanted
    assert got.isfinite().all()


def test_binary_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0, 5.0, -1.0]])
    softplus = [math.log(2), math.log1p(math.exp(2)), None, math.log1p(math.exp(-1))]
    expected = sum(value for value in softplus if value is not None) / 3
    assert classification_loss(logits, LABELS).item() == pytest.approx(expected, rel=1e-6)


def test_three_class_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    expected = math.log(1 + math.e + math.e**2) - 2
    loss = classification_loss(logits, torch.tensor([[1.0]]), "three-class")
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_ignored_entries_get_no_gradient_and_an_empty_batch_is_zero() -> None:
    logits = torch.randn(1, 4, requires_grad=True)
    classification_loss(logits, LABELS, "ignore", "ignore").backward()
    assert logits.grad is not None
    assert logits.grad[0, 2:].tolist() == [0.0, 0.0]
    assert (logits.grad[0, :2] != 0).all()
    blank = torch.full((1, 4), NAN)
    loss = classification_loss(logits, blank, "ignore", "ignore")
    loss.backward()
    assert loss.item() == 0


def test_bad_labels_and_policies() -> None:
    check_labels(LABELS)
    bad = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    with pytest.raises(BadLabels, match=r"Label 2 of 'Enlarged Cardiomediastinum' in row 1"):
        check_labels(bad)
    with pytest.raises(ValueError, match="three-class"):
        targets(LABELS, "one")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        targets(LABELS, "ones", "zero")  # type: ignore[arg-type]


def test_checkpoint_round_trip_gives_the_same_numbers() -> None:
    spec = ClassifierSpec(encoder="resnet18", classes=("a", "b"), output_stride=8)
    model = build_classifier(spec).eval()
    preprocess = Preprocess(0.5, 0.25)
    again, meta = load_classifier(dump_classifier(model, preprocess, {"auroc": 0.8}))
    assert again.spec == spec
    assert not again.training
    assert Preprocess.from_dict(meta["preprocess"]) == preprocess
    assert meta["extra"] == {"auroc": 0.8}
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))


def test_checkpoint_of_another_model_is_refused() -> None:
    model = build_classifier(ClassifierSpec(encoder="resnet18", classes=("a", "b")))
    state, meta = checkpoints.loads(dump_classifier(model, Preprocess(0.5, 0.25)))
    wrong = meta | {"spec": meta["spec"] | {"encoder": "mobilenet_v2"}}
    with pytest.raises(checkpoints.WrongArchitecture, match=r"no 'encoder\.features\.0"):
        load_classifier(checkpoints.dumps(state, wrong))
    with pytest.raises(checkpoints.WrongArchitecture, match="classifier is needed"):
        load_classifier(checkpoints.dumps(state, meta | {"kind": "segmenter"}))
    with pytest.raises(checkpoints.CorruptCheckpoint, match="does not describe"):
        load_classifier(checkpoints.dumps(state, meta | {"spec": {"classes": [], "depth": 3}}))
