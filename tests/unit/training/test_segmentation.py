"""The segmenter's task: the mix as batches, masks learned, thresholds from validation alone."""

import dataclasses

import numpy as np
import pytest
import torch
from chexseg_platform.config import Augment, Segmenter
from chexseg_platform.data import masks
from chexseg_platform.data.mix import MixError
from chexseg_platform.data.store import MaskRows, expert_rows
from chexseg_platform.findings import FINDINGS, LEFT_LUNG, RIGHT_LUNG
from chexseg_platform.models.checkpoints import WrongArchitecture
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier
from chexseg_platform.models.segmenter import load_segmenter
from chexseg_platform.training.adapting import trained_share
from chexseg_platform.training.fit import fit
from chexseg_platform.training.losses import dice_bce, soft_dice
from chexseg_platform.training.metrics import PooledIoU
from chexseg_platform.training.segmentation import (
    Segmentation,
    Start,
    fixed_thresholds,
    initial_model,
    predict_batch,
    threshold_tensor,
)
from chexseg_platform.training.weighting import balanced_weights

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


def square(rows, columns):
    mask = np.zeros((32, 32), bool)
    mask[rows, columns] = True
    return mask


def with_ignored(drawn, **ignored):
    """The rows, all with the same ignored pixels."""
    each = {name: masks.encode(mask) for name, mask in ignored.items()}
    return dataclasses.replace(drawn, ignored=(each,) * len(drawn))


def test_ignored_pixels_have_no_say(tiny_store, sets):
    unsure = square(slice(4, 20), slice(6, 30))
    task = task_of(tiny_store, with_ignored(sets[0], Edema=unsure), loss="dice+bce")
    task.model.eval()
    batch, plain = dict(task.batch(0)), task_of(tiny_store, sets[0]).batch(0)
    assert "ignored" not in plain
    assert torch.equal(batch["mask"], plain["mask"])
    assert batch["ignored"].dtype == torch.bool
    wanted = torch.zeros(4, 10, 32, 32, dtype=torch.bool)
    wanted[:, EDEMA] = torch.from_numpy(unsure)
    assert torch.equal(batch["ignored"], wanted)
    loss = task.loss(task.model, batch)
    logit = task.model(batch["image"])
    of_all = task.loss_of(logit, batch["mask"], batch["known"])
    assert loss.item() != pytest.approx(of_all.item(), abs=1e-6)
    other = {**batch, "mask": batch["mask"] ^ batch["ignored"]}
    assert task.loss(task.model, other) == loss


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_ignored_pixels_move_with_their_masks(tiny_store, flip):
    rows, classes = tiny_store.rows("valid"), (LEFT_LUNG, RIGHT_LUNG)
    left, right = square(slice(8, 24), slice(18, 30)), square(slice(0, 32), slice(0, 32))
    counts = {LEFT_LUNG: masks.encode(left), RIGHT_LUNG: masks.encode(right)}
    drawn = MaskRows(rows, (counts,) * 8, np.ones((8, 2), bool), classes, (counts,) * 8)
    augment = Augment(rotate=30.0, translate=0.2, flip=flip)
    task = Segmentation(
        settings(augment=augment), tiny_store, expert=drawn, pseudo=MaskRows.empty(classes),
        valid=MaskRows.empty(classes), seed=0, device=CPU,
    )  # fmt: skip
    moved = [task.batch(step) for step in range(2)]
    for batch in moved:
        assert torch.equal(batch["ignored"], batch["mask"])
        # One ignores its whole frame; what comes in from outside the frame is not ignored.
        assert not batch["ignored"].flatten(2).all(dim=2).any()
    whole = torch.cat([batch["mask"].sum((2, 3)).argmax(dim=1) for batch in moved])
    assert set(whole.tolist()) == ({0, 1} if flip else {1})


def test_what_is_known_of_one_side_is_of_the_other_in_a_flipped_image(tiny_store):
    rows, classes = tiny_store.rows("valid"), (LEFT_LUNG, RIGHT_LUNG)
    left = {LEFT_LUNG: masks.encode(square(slice(8, 24), slice(18, 30)))}
    drawn = MaskRows(rows, (left,) * 8, np.array([[True, False]] * 8), classes)
    task = Segmentation(
        settings(augment=Augment(flip=0.5)), tiny_store, expert=drawn,
        pseudo=MaskRows.empty(classes), valid=MaskRows.empty(classes), seed=0, device=CPU,
    )  # fmt: skip
    seen = set()
    for batch in (task.batch(step) for step in range(4)):
        assert torch.equal(batch["mask"].flatten(2).any(dim=2), batch["known"])
        seen |= set(batch["known"].int().argmax(dim=1).tolist())
    assert seen == {0, 1}


def test_validation_counts_what_is_known_and_not_ignored(tiny_store, sets):
    drawn = sets[0]
    unsure = square(slice(0, 16), slice(0, 20))
    known = drawn.known.copy()
    known[:, EDEMA] = known[:2, CARDIOMEGALY] = False
    valid = dataclasses.replace(with_ignored(drawn, Cardiomegaly=unsure), known=known)
    task = task_of(tiny_store, drawn, valid=valid)
    # All squares of Cardiomegaly lie in what is ignored, and Edema is not known: nothing is left.
    assert task.validate() == {}
    part = dataclasses.replace(
        valid, ignored=({"Cardiomegaly": masks.encode(square(slice(0, 14), slice(0, 8)))},) * 8
    )
    task = task_of(tiny_store, drawn, valid=part)
    found = task.validate()
    assert set(found) == {"score", "miou", "iou Cardiomegaly"}
    content = torch.from_numpy(tiny_store.content[drawn.rows])
    images = torch.from_numpy(tiny_store.images[drawn.rows])
    p = predict_batch(task.model, task.preprocess, images, content)[2:, CARDIOMEGALY]
    truth = torch.from_numpy(drawn.decode(np.arange(2, 8), 32)).bool()[:, CARDIOMEGALY]
    kept = torch.ones(6, 32, 32, dtype=torch.bool)
    kept[:, :14, :8] = False
    for place, (top, bottom, _, _) in enumerate(content[2:].tolist()):
        kept[place, :top] = kept[place, bottom:] = False
    cut = p >= task.found["thresholds"]["Cardiomegaly"]
    iou = (cut & truth & kept).sum() / ((cut | truth) & kept).sum()
    assert found["score"] == pytest.approx(iou.item(), abs=1e-6)


def test_rare_classes_and_foreground_count_as_asked(tiny_store, sets):
    drawn = expert_rows(tiny_store, sets[0].rows[[0, 1, 3, 4, 7]])
    fields = {"loss": "dice+bce", "class_weight": "balanced", "background_weight": 0.1}
    task = task_of(tiny_store, drawn, **fields)
    task.model.eval()
    batch = task.batch(0)
    logit = task.model(batch["image"])
    weight = balanced_weights(drawn, 32)
    assert weight[CARDIOMEGALY] + weight[EDEMA] == pytest.approx(2.0)
    assert weight[CARDIOMEGALY] != 1.0
    wanted = dice_bce(logit, batch["mask"], batch["known"], weight_K=weight, background_weight=0.1)
    assert task.loss(task.model, batch).item() == pytest.approx(wanted.item(), abs=1e-6)
    plain = dice_bce(logit, batch["mask"], batch["known"])
    assert wanted.item() != pytest.approx(plain.item(), abs=1e-3)


@pytest.mark.parametrize("adapt", ["low-rank", "frozen-encoder"])
def test_what_is_kept_of_an_adapted_model_is_a_plain_segmenter(tiny_store, sets, adapt):
    drawn = sets[0]
    start = Start(
        "segmenter", initial_model(settings(), 32, 7, None).state_dict(), classes=FINDINGS
    )
    task = Segmentation(
        settings(adapt=adapt, rank=2, layer_decay=0.9, lr=1e-2, epochs=4.0), tiny_store,
        expert=drawn, pseudo=EMPTY, valid=drawn, seed=0, device=CPU, start=start,
    )  # fmt: skip
    last = list(fit(task, task.settings, CPU))[-1]
    model, meta = load_segmenter(
        {name: last.files[name] for name in ("weights.safetensors", "model.json")}
    )
    trained, parameters = meta["extra"]["trained parameters"], meta["extra"]["parameters"]
    assert (trained, parameters) == trained_share(task.model)
    assert trained < parameters
    images, content = (
        torch.from_numpy(values[drawn.rows]) for values in (tiny_store.images, tiny_store.content)
    )
    found, wanted = (
        predict_batch(each, task.preprocess, images, content) for each in (model, task.model)
    )
    assert torch.equal(found, wanted)
    state = model.state_dict()
    changed = {name for name, value in start[1].items() if not torch.equal(value, state[name])}
    parts = {name.partition(".")[0] for name in changed}
    assert {"decoder", "segmentation_head"} <= parts
    assert ("encoder" in parts) == (adapt == "low-rank")
    assert all(state[name].dim() == 4 for name in changed if name.startswith("encoder."))


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
    started = initial_model(settings(), 32, 7, Start("classifier", state))
    random, again = (initial_model(settings(), 32, seed, None) for seed in (7, 7))
    for name, value in started.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(value, state[name])
        else:
            assert torch.equal(value, random.state_dict()[name])
    for name, value in random.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    copied = initial_model(
        settings(), 32, 8, Start("segmenter", started.state_dict(), classes=FINDINGS)
    )
    for name, value in copied.state_dict().items():
        assert torch.equal(value, started.state_dict()[name])
    # As many channels, which mean something else: only the head is new.
    renamed = tuple(reversed(FINDINGS))
    first = Start("segmenter", started.state_dict(), classes=FINDINGS)
    moved = initial_model(settings(), 32, 8, first, renamed).state_dict()
    fresh = initial_model(settings(), 32, 8, None, renamed).state_dict()
    for name, value in moved.items():
        source = fresh if name.startswith("segmentation_head.") else started.state_dict()
        assert torch.equal(value, source[name]), name
    other = Start("classifier", state, "It holds a classifier on x.")
    with pytest.raises(WrongArchitecture, match=r"encoder.* It holds a classifier on x\.$"):
        initial_model(settings(encoder="resnet18"), 32, 0, other)


def test_stores_are_not_changed_by_a_training(tiny_store, sets):
    before = np.array(tiny_store.images)
    task = task_of(tiny_store, sets[0], augment=Augment(rotate=20.0, gamma=0.3))
    list(fit(task, settings(epochs=1.0), CPU))
    np.testing.assert_array_equal(tiny_store.images, before)
