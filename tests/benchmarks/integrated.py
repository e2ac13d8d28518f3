"""Integrated Gradients beside Captum's, DenseNet-121 at 320 px, with CheXpert's mix of labels.

CheXpert's training images have 2.31 positive labels each; the batch's have 2.25. With the same
nodes both sides do the same mathematics (the unit tests compare the numbers). For steps that follow
the completeness error, Captum is given the least number of steps, doubling from ours, at which
every map is as complete as the tolerance asks; a trained classifier decides that, for the score of
a random one is nearly straight along the line.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from captum.attr import IntegratedGradients
from chexseg_platform import config
from chexseg_platform.models.classifier import Classifier
from chexseg_platform.saliency.integrated import Attribution, integrated_gradients
from chexseg_platform.saliency.memory import budget_of, rows_within
from chexseg_platform.training.classification import Classification
from chexseg_platform.training.fit import fit
from torch import Tensor

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.hotpath import CLASSES, DEVICE, material
from tests.benchmarks.material import Place

POSITIVES = (2, 0, 4, 3)
STEPS, FIRST, TOLERANCE, MOST = 4, 8, 0.05, 256
TRAINED_SIZE = 96
"""Pixels. A backward at so many nodes is a long run on two cores at the size of the rows above."""
TRAINED = config.Classifier(
    encoder="densenet121", batch_size=16, epochs=4, lr=1e-3, schedule="cosine"
)


def run(place: Place) -> list[Row]:
    """Compare at the same steps with 14 targets and with the wanted ones, then by tolerance."""
    model, images = material(len(POSITIVES))
    wanted = _wanted(len(images), POSITIVES)
    channels_last = model.to(memory_format=torch.channels_last)
    rows = rows_within(budget_of("auto", DEVICE), model, model, images[:1])
    name = "integrated gradients, densenet121 at 320, 4 steps"

    def ours() -> float:
        return rate_of(
            len(images),
            lambda: integrated_gradients(channels_last, images, wanted, steps=STEPS, rows=rows),
        )

    every = torch.ones(len(images), CLASSES, dtype=torch.bool)
    return [
        compare(
            name,
            "images/s",
            ours,
            lambda: rate_of(len(images), lambda: _captum(model, images, every, STEPS, rows)),
            "Captum, 14 targets",
            aim=7,
            repetitions=1,
        ),
        compare(
            name + " ",
            "images/s",
            ours,
            lambda: rate_of(len(images), lambda: _captum(model, images, wanted, STEPS, rows)),
            "Captum, the same targets",
            aim=1.5,
            repetitions=3,
        ),
        _by_tolerance(place),
    ]


def _wanted(images: int, positives: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    wanted = torch.zeros(images, CLASSES, dtype=torch.bool)
    for image in range(images):
        wanted[image, torch.randperm(CLASSES, generator=generator)[: positives[image % 4]]] = True
    return wanted


def _captum(model: Classifier, images: Tensor, wanted: Tensor, steps: int, rows: int) -> Tensor:
    """Class by class over the images that want it; return the largest completeness error."""
    method, worst = IntegratedGradients(model), torch.zeros(())
    for k in range(CLASSES):
        mine = images[wanted[:, k]]
        if not len(mine):
            continue
        maps = method.attribute(
            mine, target=k, n_steps=steps, method="gausslegendre", internal_batch_size=rows
        )
        with torch.no_grad():
            change = (model(mine) - model(torch.zeros_like(mine[:1])))[:, k]
        error = (maps.sum(dim=(1, 2, 3)) - change).abs() / change.abs().clamp(min=1e-2)
        worst = torch.maximum(worst, error.max().cpu())
    return worst


def _by_tolerance(place: Place) -> Row:
    store = place.store(800, TRAINED_SIZE)
    task = Classification(TRAINED, store, seed=3, device=DEVICE)
    for _ in fit(task, TRAINED, DEVICE):
        pass
    model = task.model.eval()
    images = task.batch(0)["image"][: len(POSITIVES)].contiguous()
    wanted = _wanted(len(images), POSITIVES)
    steps = FIRST
    while _captum(model, images, wanted, steps, 64) > TOLERANCE and steps < MOST:
        steps *= 2
    worst = f"{float(_captum(model, images, wanted, steps, 64)):.3f}"
    print(f"Captum, {steps} steps for every map: largest completeness error {worst}.")
    found = _ours(model, images, wanted)
    print(f"Ours: {found.steps_P.tolist()} steps, largest {float(found.error_P.max()):.3f}.")

    def ours() -> float:
        return rate_of(
            len(images),
            lambda: _ours(model, images, wanted),
        )

    return compare(
        f"integrated gradients to an error of {TOLERANCE}, trained densenet121 at {TRAINED_SIZE}",
        "images/s",
        ours,
        lambda: rate_of(len(images), lambda: _captum(model, images, wanted, steps, 64)),
        f"Captum, the same targets, {steps} steps",
        aim=3,
        repetitions=2,
    )


def _ours(model: Classifier, images: Tensor, wanted: Tensor) -> Attribution:
    return integrated_gradients(
        model, images, wanted, steps=FIRST, tolerance=TOLERANCE, most_steps=MOST
    )
