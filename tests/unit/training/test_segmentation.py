"""The segmenter's task: the mix as batches, masks learned, thresholds from validation alone."""

import numpy as np
import pytest
import torch
from chexseg_platform.config import Augment, Segmenter
from chexseg_platform.data import masks
from chexseg_platform.data.mix import MixError
from chexseg_platform.data.store import MaskRows, expert_rows
from chexseg_platform.findings import FINDINGS
from chexseg_platform.models.checkpoints import WrongArchitecture
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier
from chexseg_platform.models.segmenter import load_segmenter
from chexseg_platform.training.fit import fit
from chexseg_platform.training.losses import soft_dice
from chexseg_platform.training.metrics import PooledIoU
from chexseg_platform.training.segmentation import (
    Segmentation,
    fixed_thresholds,
    initial_model,
    predict_batch,
    threshold_tensor,
)

CPU = torch.device("cpu")
CARDIOMEGALY, EDEMA = FINDINGS.index("Cardiomegaly"), FINDINGS.index("Edema")
EMPTY = MaskRows.empty()


def settings(**fields):
    return Segmenter(
        **{
            "encoder": "tu-test_resnet", "architecture": "Unet", "batch_size": 4,
            "expert_probability": 1.0, "options": {"decoder_channels": [32, 32, 16, 16, 16]},
            **fields,
        }
    )  # fmt: skip


def task_of(store, expert=EMPTY, pseudo=EMPTY, valid=EMPTY, seed=0, **fields):
    return Segmentation(
        settings(**fields), store, expert=expert, pseudo=pseudo, valid=valid, seed=seed, device=CPU
    )


@pytest.fixture(scope="module")
def sets(tiny_store):
    """Expert rows to learn from, the same to validate on, and pseudo rows of training images."""
    drawn = expert_rows(tiny_store, tiny_store.rows("valid"))
    train = tiny_store.rows("train")
    known = np.zeros((len(train), 10), bool)
    known[:, EDEMA] = True
    return drawn, MaskRows(train, ({},) * len(train), known)


def test_a_batch_holds_images_masks_and_what_is_known(tiny_store, sets):
    drawn, pseudo = sets
    task = task_of(tiny_store, drawn, pseudo, expert_probability=0.5)
    assert task.steps_per_epoch == (8 + 16) // 4
    rows, experts = [], 0
    for step in range(6):
        batch = task.batch(step)
        items = task.batches.rows(step)
        assert batch["image"].shape == (4, 1, 32, 32)
        assert batch["mask"].shape == (4, 10, 32, 32)
        np.testing.assert_array_equal(batch["known"].numpy(), task.items.known[items])
        np.testing.assert_array_equal(
            batch["mask"].numpy(), task.items.decode(items, 32).astype(bool)
        )
        for place, item in enumerate(items):
            of_expert = item < 8
            experts += of_expert
            assert batch["known"][place].sum() == (10 if of_expert else 1)
        rows += task.items.rows[items].tolist()
    assert 0 < experts < 24
    grey = torch.from_numpy(tiny_store.images[rows[-4:]])
    content = torch.from_numpy(tiny_store.content[rows[-4:]])
    assert torch.equal(batch["image"], task.preprocess(grey, content))


def test_masks_move_with_their_images(tiny_store, sets):
    task = task_of(tiny_store, sets[0], augment=Augment(flip=1.0))
    plain = task_of(tiny_store, sets[0]).batch(0)
    flipped = task.batch(0)
    assert torch.allclose(flipped["image"], plain["image"].flip(-1), atol=1e-5)
    assert torch.equal(flipped["mask"], plain["mask"].flip(-1))
    assert flipped["mask"].dtype == torch.bool


def test_unlabelled_channels_have_no_say(tiny_store, sets):
    task = task_of(tiny_store, EMPTY, sets[1], expert_probability=0.0, loss="dice")
    task.model.eval()
    batch = dict(task.batch(0))
    loss = task.loss(task.model, batch)
    logit = task.model(batch["image"])
    wanted = soft_dice(logit[:, [EDEMA]], batch["mask"][:, [EDEMA]])
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    batch["mask"] = batch["mask"].clone()
    batch["mask"][:, CARDIOMEGALY] = True
    assert task.loss(task.model, batch) == loss


def test_squares_are_learned_and_the_checkpoint_says_how_to_cut_them(tiny_store, sets):
    drawn, _ = sets
    task = task_of(
        tiny_store, drawn, valid=drawn, epochs=24.0, lr=1e-2, schedule="cosine",
        loss="dice+bce", validations_per_epoch=0.02,
    )  # fmt: skip
    events = list(fit(task, task.settings, CPU))
    metrics = events[-1].metrics
    assert metrics["score"] == metrics["miou"] > 0.9
    assert {"iou Cardiomegaly", "iou Edema"} <= set(metrics)
    assert "iou Pneumothorax" not in metrics  # nobody drew one, so nothing can be said

    files = {name: events[-1].files[name] for name in ("weights.safetensors", "model.json")}
    model, meta = load_segmenter(files)
    thresholds = threshold_tensor(meta["extra"])
    assert thresholds.shape == (10,)
    rows = drawn.rows
    images = torch.from_numpy(tiny_store.images[rows])
    content = torch.from_numpy(tiny_store.content[rows])
    probability = predict_batch(model, task.preprocess, images, content)
    cut = probability >= thresholds[:, None, None]
    truth = torch.from_numpy(drawn.decode(np.arange(8), 32)).bool()
    inside = torch.zeros(8, 1, 32, 32, dtype=torch.bool)
    for place, (top, bottom, left, right) in enumerate(content.tolist()):
        inside[place, :, top:bottom, left:right] = True
    both = (cut & truth & inside).sum((0, 2, 3))
    either = ((cut | truth) & inside).sum((0, 2, 3))
    for name, k in (("Cardiomegaly", CARDIOMEGALY), ("Edema", EDEMA)):
        assert metrics[f"iou {name}"] == pytest.approx((both[k] / either[k]).item(), abs=1e-3)


def test_thresholds_come_from_validation_and_from_nothing_else(tiny_store, sets):
    drawn, pseudo = sets
    known = np.ones((16, 10), bool)
    whole = np.ones((32, 32), bool)
    other = MaskRows(pseudo.rows, ({"Edema": masks.encode(whole)},) * 16, known)
    found = []
    for expert in (drawn, other):
        task = task_of(tiny_store, expert, valid=drawn)
        task.batch(0)
        metrics = task.validate()
        found.append((metrics, task.found))
    assert found[0] == found[1]

    task = task_of(tiny_store, drawn, valid=drawn)
    task.validate()
    probability = predict_batch(
        task.model, task.preprocess, torch.from_numpy(tiny_store.images[drawn.rows]),
        torch.from_numpy(tiny_store.content[drawn.rows]),
    )  # fmt: skip
    grid = PooledIoU(10)
    content = torch.from_numpy(tiny_store.content[drawn.rows])
    grid.update(probability, torch.from_numpy(drawn.decode(np.arange(8), 32)), content_B4=content)
    assert list(task.found["thresholds"].values()) == grid.best()[0].tolist()
    flipped = MaskRows(drawn.rows, drawn.counts[::-1], drawn.known)
    elsewhere = task_of(tiny_store, drawn, valid=flipped)
    assert elsewhere.validate() != found[0][0]


def test_a_fixed_threshold_is_kept(tiny_store, sets):
    task = task_of(tiny_store, sets[0], valid=sets[0], threshold=0.3)
    assert fixed_thresholds(task.settings, FINDINGS)["thresholds"] == dict.fromkeys(FINDINGS, 0.3)
    task.validate()
    assert list(task.found["thresholds"].values()) == pytest.approx([0.3] * 10)


def test_validation_without_images_or_findings(tiny_store, sets):
    drawn, _ = sets
    blank = MaskRows(drawn.rows, ({},) * 8, drawn.known)
    for valid in (EMPTY, blank):
        task = task_of(tiny_store, drawn, valid=valid)
        assert task.validate() == {}
        assert set(task.found["thresholds"].values()) == {0.5}
    assert task.found["iou"]["Edema"] is None
    (event,) = fit(task, settings(epochs=0.5), CPU)
    assert 0 < event.metrics["score"] < 1e-6
    _, meta = load_segmenter(
        {name: event.files[name] for name in ("weights.safetensors", "model.json")}
    )
    assert threshold_tensor(meta["extra"]).tolist() == [0.5] * 10


def test_rows_that_are_asked_for_must_be_there(tiny_store, sets):
    drawn, pseudo = sets
    with pytest.raises(MixError, match="no expert-labelled image"):
        task_of(tiny_store, EMPTY, pseudo, expert_probability=0.5)
    with pytest.raises(MixError, match="no pseudo-labelled image"):
        task_of(tiny_store, drawn, EMPTY, expert_probability=0.5)


def test_first_weights(tiny_store):
    classifier = build_classifier(ClassifierSpec(encoder="tu-test_resnet"))
    state = classifier.state_dict()
    started = initial_model(settings(), 32, 7, ("classifier", state))
    random, again = (initial_model(settings(), 32, seed, None) for seed in (7, 7))
    for name, value in started.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(value, state[name])
        else:
            assert torch.equal(value, random.state_dict()[name])
    for name, value in random.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    copied = initial_model(settings(), 32, 8, ("segmenter", started.state_dict()))
    for name, value in copied.state_dict().items():
        assert torch.equal(value, started.state_dict()[name])
    with pytest.raises(WrongArchitecture, match="encoder"):
        initial_model(settings(encoder="resnet18"), 32, 0, ("classifier", state))


def test_stores_are_not_changed_by_a_training(tiny_store, sets):
    before = np.array(tiny_store.images)
    task = task_of(tiny_store, sets[0], augment=Augment(rotate=20.0, gamma=0.3))
    list(fit(task, settings(epochs=1.0), CPU))
    np.testing.assert_array_equal(tiny_store.images, before)
