"""IRNet's loss by hand and against all pairs of cells; its task; what the boundaries are for."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from chexseg_platform.config import Augment, Classifier, IRNet
from chexseg_platform.data import masks
from chexseg_platform.data.store import Store
from chexseg_platform.findings import FINDINGS
from chexseg_platform.models.boundary import BoundarySpec, load_boundary
from chexseg_platform.models.checkpoints import WrongArchitecture, save
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier
from chexseg_platform.models.encoder import build_encoder
from chexseg_platform.saliency.seedlabel import SEED_SCHEMA
from chexseg_platform.saliency.seeds import encode, find_seeds, to_cells
from chexseg_platform.saliency.walk import path, walk
from chexseg_platform.training.boundary import (
    Boundary,
    SeedRows,
    boundary_loss,
    pair_sums,
    seed_rows,
    spec_of,
    weighted_means,
)
from chexseg_platform.training.classification import NothingToLearn
from chexseg_platform.training.fit import fit
from torch import Tensor

CPU = torch.device("cpu")
SPEC = BoundarySpec(encoder="tu-test_resnet")
EDEMA = FINDINGS.index("Edema")
SIZE, INSIDE = 64, slice(16, 48)


def terms_slowly(
    logit: Tensor, displacement: Tensor, front: Tensor, back: Tensor, radius: int
) -> list[Tensor]:
    """The five means over all pairs of cells, one by one, of sigmoids as the paper writes them."""
    batch, classes, height, width = front.shape
    edge = logit[:, 0].sigmoid()
    sums, pairs = [torch.zeros((), dtype=torch.float64)] * 5, [0, 0, 0]
    cells = list(itertools.product(range(height), range(width)))
    for b, (i, j) in itertools.product(range(batch), itertools.combinations(cells, 2)):
        offset = (j[0] - i[0], j[1] - i[1])
        if offset[0] ** 2 + offset[1] ** 2 >= radius**2:
            continue
        between = [edge[b, i[0] + y, i[1] + x] for y, x in path(offset)]
        affinity = 1 - torch.stack(between).max()
        step = displacement[b, :, i[0], i[1]] - displacement[b, :, j[0], j[1]]
        for k in range(classes):
            f, g = front[b, k], back[b, k]
            if f[i] and f[j]:
                away = (step - torch.tensor(offset)).abs().sum()
                sums[0], sums[3], pairs[0] = sums[0] - affinity.log(), sums[3] + away, pairs[0] + 1
            elif g[i] and g[j]:
                drift = step.abs().sum()
                sums[1], sums[4], pairs[1] = sums[1] - affinity.log(), sums[4] + drift, pairs[1] + 1
            elif (f[i] and g[j]) or (g[i] and f[j]):
                sums[2], pairs[2] = sums[2] - (1 - affinity).log(), pairs[2] + 1
    factors = zip(sums, (0.5, 0.5, 1, 1, 1), (0, 1, 2, 0, 1), strict=True)
    return [weight * total / max(1, pairs[n]) for total, weight, n in factors]


@pytest.mark.parametrize("radius", [2, 3, 10])
def test_equals_the_loss_over_all_pairs(radius: int) -> None:
    generator = torch.Generator().manual_seed(radius)
    logit = torch.randn(2, 1, 4, 5, generator=generator, requires_grad=True)
    displacement = torch.randn(2, 2, 4, 5, generator=generator, requires_grad=True)
    kind = torch.randint(3, (2, 3, 4, 5), generator=generator)
    kind[1, 2] = 2  # a finding without seeds
    front, back = kind == 0, kind == 1
    found = weighted_means(*pair_sums(logit, displacement, front, back, radius))
    wanted = torch.stack(terms_slowly(logit, displacement, front, back, radius))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    loss = boundary_loss(logit, displacement, front, back, radius)
    torch.testing.assert_close(loss, wanted.sum(), rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(x, (logit, displacement)) for x in (loss, wanted.sum())]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def strip(*values: float) -> Tensor:
    return torch.tensor(values)[None, None, None]


def test_loss_of_two_regions_by_hand() -> None:
    # Two cells of the finding, an unsure one where the boundary is, two cells of background.
    front = strip(1.0, 1.0, 0.0, 0.0, 0.0).bool()
    back = strip(0.0, 0.0, 0.0, 1.0, 1.0).bool()
    logit = torch.logit(strip(0.1, 0.2, 0.9, 0.3, 0.2))
    displacement = torch.zeros(1, 2, 1, 5)
    displacement[0, :, 0] = torch.tensor([[0.0] * 5, [1.5, 0.0, 0.0, 0.0, 0.25]])
    sums, pairs = pair_sums(logit, displacement, front, back, 4)
    # Nearer than four cells: 0-1; 3-4; 0-3, 1-3 and 1-4, all of which cross the boundary.
    assert pairs.tolist() == [1, 1, 3]
    assert sums.tolist() == pytest.approx(
        [-math.log(0.8), -math.log(0.7), -3 * math.log(0.9), 0.5, 0.25], rel=1e-5
    )
    wanted = -math.log(0.8) / 2 - math.log(0.7) / 2 - math.log(0.9) + 0.5 + 0.25
    loss = boundary_loss(logit, displacement, front, back, 4)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    # A finding that is there twice makes every pair count twice, which changes no mean.
    twice = boundary_loss(logit, displacement, front.repeat(1, 2, 1, 1), back.repeat(1, 2, 1, 1), 4)
    assert twice.item() == pytest.approx(wanted, rel=1e-5)


def test_findings_and_images_have_no_pairs_with_each_other() -> None:
    front, back = torch.zeros(2, 2, 2, 3, 3, dtype=torch.bool)
    front[0, 0], back[0, 1], back[1, 0] = True, True, True
    _, pairs = pair_sums(torch.zeros(2, 1, 3, 3), torch.zeros(2, 2, 3, 3), front, back, 2)
    assert pairs.tolist() == [20, 40, 0]


def test_no_pair_no_loss() -> None:
    logit = torch.randn(1, 1, 3, 3, requires_grad=True)
    nothing = torch.zeros(1, 2, 3, 3, dtype=torch.bool)
    loss = boundary_loss(logit, torch.zeros(1, 2, 3, 3), nothing, nothing)
    loss.backward()
    assert loss.item() == 0
    assert logit.grad.abs().max() == 0


def test_extreme_logits_keep_loss_and_gradient_finite() -> None:
    front, back = strip(1.0, 1.0, 0.0, 0.0).bool(), strip(0.0, 0.0, 1.0, 1.0).bool()
    logit = strip(200.0, 200.0, -200.0, -200.0).requires_grad_()
    loss = boundary_loss(logit, torch.zeros(1, 2, 1, 4), front, back, 2)
    loss.backward()
    assert loss.item() == pytest.approx(200.0 / 2 + 1.0)
    assert logit.grad.sum().item() == pytest.approx(0.5)


def test_displacements_to_the_centre_cost_nothing() -> None:
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    front, back = torch.zeros(2, 1, 1, 6, 7, dtype=torch.bool)
    front[..., 1:4, 2:5], back[..., 5:, :] = True, True
    to_centre = torch.stack((2 - row, 3 - column))[None]
    field = torch.where(front[:, 0], to_centre, torch.full_like(to_centre, 0.75))
    logit = torch.zeros(1, 1, 6, 7)
    terms = weighted_means(*pair_sums(logit, field, front, back, 10))
    assert terms[3:].tolist() == [0.0, 0.0]
    away = weighted_means(*pair_sums(logit, -field, front, back, 10))
    assert away[3] > 1


def settings(**fields) -> IRNet:
    return IRNet.model_validate({"batch_size": 4, "epochs": 1.0, "radius": 3, **fields})


def square_seeds(store: Store, split: str) -> SeedRows:
    """Edema's square, and what is far from it, in all images of a split."""
    rows = store.rows(split)
    front, back = np.zeros((2, 32, 32), bool)
    front[16:22, 20:28], back[:8] = True, True
    one = {"Edema": masks.encode(front)}, {"Edema": masks.encode(back)}
    return SeedRows(rows, (one[0],) * len(rows), (one[1],) * len(rows))


def task_of(store, seeds=None, valid=None, **fields) -> Boundary:
    return Boundary(
        settings(**fields), store, spec=SPEC, seeds=seeds or square_seeds(store, "train"),
        valid=valid or SeedRows.empty(), seed=0, device=CPU,
    )  # fmt: skip


def test_a_batch_holds_images_and_seeds_on_the_grid(tiny_store) -> None:
    task = task_of(tiny_store)
    assert task.steps_per_epoch == 4
    batch = task.batch(5)
    items = task.batches.rows(5)
    rows = task.seeds.rows[items]
    grey = torch.from_numpy(tiny_store.images[rows])
    content = torch.from_numpy(tiny_store.content[rows])
    assert torch.equal(batch["image"], task.preprocess(grey, content))
    seeds = torch.from_numpy(task.seeds.decode(items, 32))
    assert seeds.shape == (4, 20, 32, 32)
    for name, first in (("foreground", 0), ("background", 10)):
        assert torch.equal(batch[name], to_cells(seeds[:, first : first + 10]))
        assert batch[name][:, EDEMA].any()
    assert torch.equal(task.batch(5)["foreground"], batch["foreground"])


def test_seeds_move_with_their_images(tiny_store) -> None:
    plain = task_of(tiny_store).batch(0)
    flipped = task_of(tiny_store, augment={"flip": 1.0}).batch(0)
    assert torch.allclose(flipped["image"], plain["image"].flip(-1), atol=1e-5)
    for name in ("foreground", "background"):
        assert torch.equal(flipped[name], plain[name].flip(-1))


def test_a_training_leaves_the_encoder_alone_and_goes_on_where_it_was(tiny_store, tmp_path) -> None:
    valid = square_seeds(tiny_store, "valid")
    fields = {"epochs": 2.0, "augment": Augment(rotate=10.0).model_dump()}
    task = task_of(tiny_store, valid=valid, **fields)
    before = {name: value.clone() for name, value in task.model.encoder.state_dict().items()}
    untrained = task.validate()
    first, second = (event for event in fit(task, task.settings, CPU) if event.files)
    for name, value in task.model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert second.metrics["boundary loss"] < untrained["boundary loss"] / 5
    assert second.metrics["score"] == math.exp(-second.metrics["boundary loss"])

    for name, content in first.files.items():
        (tmp_path / name).write_bytes(content)
    again = task_of(tiny_store, valid=valid, **fields)
    (event,) = (event for event in fit(again, again.settings, CPU, tmp_path) if event.files)
    assert event.files["weights.safetensors"] == second.files["weights.safetensors"]
    model, meta = load_boundary(event.files)
    assert meta["extra"]["metrics"]["score"] == event.metrics["score"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_half_precision_trains_too(tiny_store) -> None:
    task = task_of(tiny_store, precision="bfloat16", radius=2)
    (event,) = (event for event in fit(task, task.settings, CPU) if event.files)
    assert 0 < event.report.loss < 100


def test_validation_is_the_loss_of_all_images_at_once(tiny_store) -> None:
    valid = square_seeds(tiny_store, "valid")
    task = task_of(tiny_store, valid=valid)
    metrics = task.validate()
    items = np.arange(len(valid))
    rows = valid.rows
    image = task.preprocess(
        torch.from_numpy(tiny_store.images[rows]), torch.from_numpy(tiny_store.content[rows])
    )
    seeds = to_cells(torch.from_numpy(valid.decode(items, 32)))
    with torch.no_grad():
        logit, displacement = task.model.eval()(image)
        loss = boundary_loss(logit, displacement, seeds[:, :10], seeds[:, 10:], 3)
    total = metrics["boundary loss"] + metrics["displacement loss"]
    assert total == pytest.approx(loss.item(), rel=1e-6)


def test_without_validation_images_or_pairs_there_is_no_score(tiny_store) -> None:
    rows = tiny_store.rows("valid")
    for valid in (SeedRows.empty(), SeedRows(rows, ({},) * len(rows), ({},) * len(rows))):
        assert task_of(tiny_store, valid=valid).validate() == {}


def test_nothing_to_learn(tiny_store) -> None:
    rows = tiny_store.rows("train")[:1]
    only = ({"Edema": masks.encode(np.ones((32, 32), bool))},)
    other = ({"Cardiomegaly": only[0]["Edema"]},)
    for seeds in (SeedRows(rows, only, ({},)), SeedRows(rows, only, other)):
        with pytest.raises(NothingToLearn, match="both foreground and background"):
            task_of(tiny_store, seeds)
    with pytest.raises(NothingToLearn, match="both foreground and background"):
        Boundary(
            settings(), tiny_store, spec=SPEC, seeds=SeedRows.empty(), valid=SeedRows.empty(),
            seed=0, device=CPU,
        )  # fmt: skip


def test_first_weights(tiny_store, tmp_path) -> None:
    classifier = build_classifier(ClassifierSpec(encoder="tu-test_resnet"))
    encoder = build_encoder("tu-test_resnet")
    save(tmp_path, encoder.state_dict(), {"kind": "encoder", "encoder": "tu-test_resnet"})
    seeds = square_seeds(tiny_store, "train")

    def started(start, spec=SPEC) -> dict[str, Tensor]:
        task = Boundary(
            settings(), tiny_store, spec=spec, seeds=seeds, valid=SeedRows.empty(), seed=0,
            device=CPU, start=start,
        )  # fmt: skip
        return task.model.encoder.state_dict()

    for start, wanted in ((classifier.state_dict(), classifier.encoder), (tmp_path, encoder)):
        state = started(start)
        for name, value in wanted.state_dict().items():
            assert torch.equal(state[name], value)
    with pytest.raises(WrongArchitecture, match="encoder"):
        started(classifier.state_dict(), BoundarySpec(encoder="resnet18"))


def test_the_network_is_the_classifiers_unless_told_otherwise() -> None:
    classifier = Classifier(encoder="resnet18", output_stride=16)
    assert spec_of(IRNet(), classifier) == BoundarySpec(encoder="resnet18", output_stride=16)
    other = IRNet(encoder="resnet50", weights="imagenet", output_stride=8)
    assert spec_of(other, classifier) == BoundarySpec(encoder="resnet50", output_stride=8)


def squares() -> Store:
    """Two dim, noisy images with a bright square in the middle."""
    images = np.random.default_rng(0).integers(0, 60, (2, SIZE, SIZE)).astype(np.uint8)
    images[:, INSIDE, INSIDE] += 180
    return Store(images, pa.table({"height": [SIZE] * 2, "width": [SIZE] * 2}), SIZE, (None,) * 2)


def test_boundaries_lie_at_the_outline_and_keep_the_heat_inside() -> None:
    store = squares()
    # Saliency as it is: highest in the square, but with a rim over its outline.
    place = torch.arange(SIZE) - (SIZE - 1) / 2
    heat = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * 14.0**2)).expand(2, 1, -1, -1)
    found = find_seeds(
        heat, SIZE, foreground=0.6, background=0.2, image_BSS=torch.from_numpy(store.images)
    )
    front, back = (
        tuple({"Edema": next(iter(run.values()))} for run in encode(seed.expand(-1, 10, -1, -1)))
        for seed in found
    )
    task = Boundary(
        settings(epochs=24.0, batch_size=2, radius=5, validations_per_epoch=0.01), store,
        spec=BoundarySpec(encoder="resnet18"), seeds=SeedRows(np.arange(2), front, back),
        valid=SeedRows.empty(), seed=0, device=CPU,
    )  # fmt: skip
    list(fit(task, task.settings, CPU))
    images, content = torch.from_numpy(store.images[:1]), torch.from_numpy(store.content[:1])
    edge = task.model.eval().boundaries(task.preprocess(images, content))[0].detach()

    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 4:12] = True
    outline = torch.zeros(16, 16, dtype=torch.bool)
    outline[3:13, 3:13] = True
    outline[5:11, 5:11] = False
    assert edge[outline].mean() > 3 * edge[~outline].mean()

    start = torch.zeros(1, 1, 16, 16)
    start[..., 7:9, 7:9] = 1.0
    kept = [
        (walked[0, 0][inside].sum() / walked.sum()).item()
        for walked in (walk(start, boundary, steps=64) for boundary in (edge[None], edge[None] * 0))
    ]
    assert kept[0] > 0.9
    assert kept[1] < 0.6


def test_seeds_of_a_table_as_rows_of_the_store(tiny_store) -> None:
    train, valid = (int(tiny_store.rows(split)[2]) for split in ("train", "valid"))
    other = int(tiny_store.rows("train")[0])
    drawn = masks.encode(np.eye(32, dtype=bool))
    names = ("image_id", "split", "finding", "foreground", "background")
    rows = [
        (tiny_store.ids[train], "train", "Edema", drawn, None),
        (tiny_store.ids[train], "train", "Cardiomegaly", None, drawn),
        (tiny_store.ids[other], "train", "Edema", None, None),
        (tiny_store.ids[valid], "valid", "Edema", drawn, drawn),
        ("nobody", "train", "Edema", drawn, drawn),
    ]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], SEED_SCHEMA)
    found = seed_rows(tiny_store, table, "train")
    assert found.rows.tolist() == [train]
    assert found.foreground == ({"Edema": drawn},)
    assert found.background == ({"Cardiomegaly": drawn},)
    assert seed_rows(tiny_store, table, "valid").rows.tolist() == [valid]
    assert len(seed_rows(tiny_store, SEED_SCHEMA.empty_table(), "train")) == 0
