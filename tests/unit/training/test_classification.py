"""The classifier's task: what it is shown, what it learns, and what it says of itself."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from chexseg_platform.config import Augment, Classifier
from chexseg_platform.data.store import open_store
from chexseg_platform.findings import COMPETITION, OBSERVATIONS
from chexseg_platform.models.classifier import classification_loss, load_classifier
from chexseg_platform.training.classification import (
    Classification,
    NothingToLearn,
    auroc_metrics,
    check_labels,
    predict,
    spec_of,
)
from chexseg_platform.training.fit import fit
from chexseg_platform.training.metrics import auroc

CPU = torch.device("cpu")
CARDIOMEGALY, EDEMA = OBSERVATIONS.index("Cardiomegaly"), OBSERVATIONS.index("Edema")


def settings(**fields):
    return Classifier(encoder="tu-test_resnet", batch_size=8, **fields)


def task_of(store, seed=0, **fields):
    return Classification(settings(**fields), store, seed=seed, device=CPU)


def test_a_batch_holds_training_images_and_their_labels(tiny_store):
    task = task_of(tiny_store)
    assert task.steps_per_epoch == 2
    batch = task.batch(0)
    rows = task.train_rows[task.batches.rows(0)]
    assert set(np.array(tiny_store.table["split"].to_pylist())[rows]) == {"train"}
    assert batch["image"].shape == (8, 1, 32, 32)
    np.testing.assert_array_equal(batch["labels"].numpy(), tiny_store.labels[rows])
    grey = torch.from_numpy(tiny_store.images[rows])
    wanted = task.preprocess(grey, torch.from_numpy(tiny_store.content[rows]))
    assert torch.equal(batch["image"], wanted)


def test_augmentation_is_the_same_for_a_step_and_differs_between_steps(tiny_store):
    task = task_of(tiny_store, augment=Augment(rotate=10.0, brightness=0.1))
    first, again = task.batch(3), task.batch(3)
    assert torch.equal(first["image"], again["image"])
    plain = task_of(tiny_store).batch(3)
    assert not torch.equal(first["image"], plain["image"])
    assert torch.equal(first["labels"].nan_to_num(9), plain["labels"].nan_to_num(9))


def test_a_bright_square_is_learned(tiny_store):
    task = task_of(tiny_store, epochs=12.0, lr=3e-3, validations_per_epoch=0.25)
    events = list(fit(task, task.settings, CPU))
    metrics = events[-1].metrics
    assert metrics["auroc Cardiomegaly"] > 0.95
    assert metrics["auroc Edema"] > 0.95
    assert metrics["score"] == metrics["auroc competition"]
    assert "auroc Fracture" not in metrics  # nobody has one, so there is no curve
    assert events[-1].report.loss < 0.5 * events[0].report.loss

    model, meta = load_classifier(
        {name: events[-1].files[name] for name in ("weights.safetensors", "model.json")}
    )
    rows = tiny_store.rows("valid")
    scores = predict(model, task.preprocess, tiny_store, rows, CPU)
    wanted = predict(task.model, task.preprocess, tiny_store, rows, CPU)
    np.testing.assert_array_equal(scores, wanted)
    assert meta["extra"]["metrics"]["score"] == metrics["score"]


def test_the_head_starts_at_the_prevalence_of_its_labels(tiny_store):
    """With one image more of each kind, so that a finding that nobody has stays possible."""
    count = len(tiny_store.rows("train"))
    there = (tiny_store.labels[tiny_store.rows("train")] == 1).sum(axis=0)
    p = torch.from_numpy((there + 1) / (count + 2))
    bias = task_of(tiny_store).model.head.bias.detach().double()
    assert torch.allclose(bias, torch.log(p / (1 - p)), atol=1e-5)
    bias = task_of(tiny_store, blank="ignore").model.head.bias.detach()
    assert bias[OBSERVATIONS.index("Fracture")] == 0  # nothing is known of it
    three = task_of(tiny_store, uncertain="three-class").model.head.bias.detach()
    shares = three.unflatten(0, (14, 3)).softmax(-1)
    assert torch.allclose(three.exp().unflatten(0, (14, 3)), shares, atol=1e-6)
    assert shares[CARDIOMEGALY, 2].item() == pytest.approx(
        (there[CARDIOMEGALY] + 2 / 3) / (count + 2), abs=1e-6
    )


def test_the_same_seed_gives_the_same_weights(tiny_store):
    states = [task_of(tiny_store, seed=seed).model.state_dict() for seed in (1, 1, 2)]
    same = [torch.equal(states[0]["head.weight"], state["head.weight"]) for state in states[1:]]
    assert same == [True, False]


def test_predictions_are_each_image_s_own_in_any_batch(tiny_store, monkeypatch):
    task = task_of(tiny_store)
    rows = np.arange(len(tiny_store))[::-1].copy()
    whole = predict(task.model, task.preprocess, tiny_store, rows, CPU)
    assert whole.shape == (28, 14)
    assert ((whole > 0) & (whole < 1)).all()
    monkeypatch.setattr("chexseg_platform.models.batch.GPU_BATCH", 5)
    parts = predict(task.model, task.preprocess, tiny_store, rows, CPU)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    halves = [predict(task.model, task.preprocess, tiny_store, rows, CPU, (r, 2)) for r in (0, 1)]
    np.testing.assert_allclose(halves[0] + halves[1], whole, atol=1e-6)


@pytest.mark.parametrize("uncertain", ["ignore", "zeros", "ones", "three-class"])
def test_policies_decide_the_loss_of_an_uncertain_label(tiny_store, uncertain):
    task = task_of(tiny_store, uncertain=uncertain, blank="ignore")
    task.model.eval()
    batch = dict(task.batch(0))
    labels = torch.full((8, 14), torch.nan)
    labels[:, EDEMA] = -1.0
    loss = task.loss(task.model, {**batch, "labels": labels})
    logits = task.model(batch["image"])
    assert loss == classification_loss(logits, labels, uncertain, "ignore")
    width = 3 if uncertain == "three-class" else 1
    assert logits.shape == (8, 14 * width)
    z = logits.detach().double()
    by_hand = {
        "ignore": torch.zeros(8),
        "zeros": -torch.log(1 - z[:, EDEMA].sigmoid()),
        "ones": -torch.log(z[:, EDEMA].sigmoid()),
        "three-class": -z.unflatten(1, (14, width)).log_softmax(-1)[:, EDEMA, -2 % width],
    }[uncertain]
    assert loss.item() == pytest.approx(by_hand.mean().item(), abs=1e-5)


def test_three_classes_train_and_give_probabilities_of_presence(tiny_store):
    task = task_of(tiny_store, uncertain="three-class", epochs=1.0, lr=1e-3)
    metrics = list(fit(task, task.settings, CPU))[-1].metrics
    assert 0 <= metrics["auroc Edema"] <= 1
    assert spec_of(task.settings).outputs == 42
    scores = predict(task.model, task.preprocess, tiny_store, np.arange(4), CPU)
    assert scores.shape == (4, 14)


def test_auroc_is_of_studies_and_of_known_labels(tiny_store):
    rows = tiny_store.rows("valid")
    scores = np.random.default_rng(0).random((8, 14))
    metrics = auroc_metrics(tiny_store, rows, scores)
    for name in ("Cardiomegaly", "Edema"):
        k = OBSERVATIONS.index(name)
        # Every patient has one image, so a study is an image.
        wanted = auroc(scores[:, k], tiny_store.labels[rows, k] == 1)
        assert metrics[f"auroc {name}"] == pytest.approx(wanted)
    known = [metrics[f"auroc {name}"] for name in ("Cardiomegaly", "Edema")]
    assert metrics["auroc mean"] == pytest.approx(np.mean(known))
    assert metrics["auroc competition"] == pytest.approx(np.mean(known))
    assert math.isnan(metrics["auroc Fracture"])
    assert set(COMPETITION) >= {"Cardiomegaly", "Edema"}


def made_store(make_dataset, make_row, folder, *rows):
    dataset = make_dataset(folder / "w", [make_row(*row, drawn=False) for row in rows])
    return open_store(dataset, folder / "c")


def test_validation_without_images_or_of_one_kind_has_no_score(make_dataset, make_row, tmp_path):
    train = [(n, "train") for n in range(8)]
    for number, valid in enumerate(([], [(0, "valid")])):
        store = made_store(make_dataset, make_row, tmp_path / str(number), *train, *valid)
        task = task_of(store)
        assert task.validate() == {}
        assert task.dump()
        (event,) = fit(task, settings(epochs=0.5), CPU)
        assert 0 < event.metrics["score"] < 1e-6


def test_nothing_to_learn_is_said_before_any_work(make_dataset, make_row, tmp_path, tiny_store):
    no_train = made_store(make_dataset, make_row, tmp_path / "a", (0, "valid"))
    with pytest.raises(NothingToLearn, match=r"no image in the 'train' split; add a table"):
        task_of(no_train)
    negative = dataclasses.replace(tiny_store)
    labels = np.where(tiny_store.labels == 1, 0, tiny_store.labels)
    negative.__dict__["labels"] = labels
    with pytest.raises(NothingToLearn, match="no image of the 'train' split has a positive label"):
        task_of(negative)
    missing = check_labels(tiny_store)
    assert set(OBSERVATIONS) - set(missing) == {"Cardiomegaly", "Edema"}
