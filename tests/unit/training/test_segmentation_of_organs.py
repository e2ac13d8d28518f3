"""The same task on other classes: organs of a phantom, read from mask files."""

import numpy as np
import pytest
import torch
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Augment, Collection, Segmenter
from chexseg_platform.data.masked.collection import read_collection
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.data.rows import make_row, to_table
from chexseg_platform.data.store import MaskRows, Store, expert_rows, index_of, open_store
from chexseg_platform.evaluation.segmenting import Segmenting, frame_of
from chexseg_platform.findings import (
    CLAVICLES,
    HEART,
    INFECTION,
    LEFT_LUNG,
    LUNGS,
    ORGANS,
    RIGHT_LUNG,
)
from chexseg_platform.models.segmenter import load_segmenter
from chexseg_platform.training.fit import fit
from chexseg_platform.training.segmentation import Segmentation

CPU, SIZE = torch.device("cpu"), 64


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("organs")
    files, counts = folder / "files", {"train": 20, "valid": 8, "test": 0}
    write_phantom(files, **counts, size=SIZE, layout="folder", workers=1)
    entries = read_collection(Collection(layout="folder", root=str(files)))
    table = to_table([make_row(entry, SIZE) for entry in entries], SIZE)
    draft = Workspace(folder / "ws").draft("dataset", "d" * 16)
    parts = [draft.write("rows/0", table), draft.write("index/0", index_of(table, SIZE))]
    dataset = draft.finish(parts, config={}, inputs={}, summary={"size": SIZE})
    return open_store(dataset, folder / "cache")


def task_of(store: Store, classes: tuple[str, ...], **fields: object) -> Segmentation:
    settings = Segmenter.model_validate(
        {
            "encoder": "tu-test_resnet", "architecture": "Unet", "batch_size": 4, "lr": 3e-3,
            "expert_probability": 1.0, "options": {"decoder_channels": [32, 32, 16, 16, 16]},
            "loss": "dice+bce", **fields,
        }
    )  # fmt: skip
    train, valid = (expert_rows(store, store.rows(split), classes) for split in ("train", "valid"))
    return Segmentation(
        settings, store, expert=train, pseudo=MaskRows.empty(classes), valid=valid, seed=0,
        device=CPU,
    )  # fmt: skip


def test_channels_are_the_classes_that_were_asked_for(store: Store) -> None:
    task = task_of(store, (HEART, LUNGS, INFECTION))
    batch, items = task.batch(0), task.batches.rows(0)
    assert batch["mask"].shape == (4, 3, SIZE, SIZE)
    assert batch["known"].shape == (4, 3)
    organs = expert_rows(store, task.items.rows[items], ORGANS).decode(np.arange(4), SIZE)
    both = organs[:, ORGANS.index(RIGHT_LUNG)] | organs[:, ORGANS.index(LEFT_LUNG)]
    np.testing.assert_array_equal(batch["mask"][:, 0].numpy(), organs[:, ORGANS.index(HEART)])
    # Resampled by themselves or as a whole, a pixel of their edge may differ.
    assert (batch["mask"][:, 1].numpy() != both).mean() < 0.01


def test_what_has_two_sides_is_their_union(store: Store) -> None:
    rows = store.rows("valid")
    whole = expert_rows(store, rows, (CLAVICLES,)).decode(np.arange(len(rows)), SIZE)
    sides = expert_rows(store, rows, ORGANS).decode(np.arange(len(rows)), SIZE)[:, 3:]
    assert whole.any()
    np.testing.assert_array_equal(whole[:, 0], sides.max(axis=1))


def test_sides_swap_where_an_image_is_flipped(store: Store) -> None:
    plain = task_of(store, ORGANS).batch(0)
    flipped = task_of(store, ORGANS, augment=Augment(flip=1.0)).batch(0)
    torch.testing.assert_close(flipped["image"], plain["image"].flip(-1), atol=1e-3, rtol=0)
    order = [1, 0, 2, 4, 3]
    assert torch.equal(flipped["mask"], plain["mask"].flip(-1)[:, order])
    # Whatever was flipped, what is called the right lung is on the left of the picture.
    columns = torch.arange(SIZE)
    for batch in (plain, flipped, task_of(store, ORGANS, augment=Augment(flip=0.5)).batch(1)):
        right, left = (
            (mask.sum(dim=1) * columns).sum(-1) / mask.sum(dim=(1, 2))
            for mask in batch["mask"][:, :2].transpose(0, 1)
        )
        assert (right < left).all()


def test_one_side_alone_is_not_flipped(store: Store) -> None:
    assert task_of(store, (RIGHT_LUNG, HEART)).mirrored is None
    with pytest.raises(ValueError, match="makes Right Lung the Left Lung"):
        task_of(store, (RIGHT_LUNG, HEART), augment=Augment(flip=0.5))


def test_organs_are_learned_and_said_by_name(store: Store) -> None:
    task = task_of(store, (LUNGS, HEART))
    list(fit(task, task.settings.model_copy(update={"epochs": 12.0}), CPU))
    score = task.validate()
    assert score["iou Lungs"] > 0.6
    assert set(task.found["thresholds"]) == {LUNGS, HEART}
    _, meta = load_segmenter(task.dump())
    assert meta["spec"]["classes"] == [LUNGS, HEART]
    row = int(store.rows("valid")[0])
    (said,) = Segmenting(task.dump(), SIZE).segment([frame_of(store.images[row], SIZE)])
    assert set(said.masks) <= {LUNGS, HEART}
    assert LUNGS in said.masks
    assert set(said.peaks) == {LUNGS, HEART}
