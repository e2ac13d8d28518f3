"""What distilling and boosting maps adds to making them: each step beside Integrated Gradients.

DenseNet-121 at 320 px, 8 steps, maps of the label-positive observations only: 30 of 13 images x 13
observations, 2.31 an image as in CheXpert's table. Every step has the input that it has in a row
of them all; two models are combined, of which the second's maps are the first's, shifted. The aim
is that all steps together add 15 % at most: they handle 6.67 times as many images a second.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from chexseg_platform.findings import OBSERVATIONS, PLACED
from chexseg_platform.models.classifier import Classifier
from chexseg_platform.models.preprocess import preset
from chexseg_platform.saliency.boost import (
    edge_aware,
    ignore_band,
    pooled,
    superpixels,
    without_small,
)
from chexseg_platform.saliency.distil import combined, completeness_weight, scaled
from chexseg_platform.saliency.integrated import integrated_gradients
from chexseg_platform.saliency.memory import budget_of, rows_within
from chexseg_platform.saliency.seeds import GUIDE_REACH, GUIDE_SMOOTHNESS
from chexseg_platform.saliency.threshold import box_mean, heat_to_mask
from torch import Tensor

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.hotpath import DEVICE, SIZE, material
from tests.benchmarks.material import Place

POSITIVES = (2, 3, 1, 4, 2, 0, 3, 2, 5, 1, 2, 3, 2)
STEPS, REPETITIONS = 8, 5
BOX, REGIONS, MASS, SMALLEST, BAND = 0.036, 300, 0.5, 1e-3, 0.02

Step = Callable[[], Any]


def run(place: Place) -> list[Row]:
    """Compare all steps with the pass that makes the maps; print what each of them takes."""
    store = place.store(4 * len(POSITIVES), SIZE)
    model, _ = material(1)
    model = model.to(memory_format=torch.channels_last)
    grey = torch.from_numpy(store.images[: len(POSITIVES)].copy())
    content = torch.from_numpy(store.content[: len(POSITIVES)])
    images = preset("chexpert")(grey.to(DEVICE), content.to(DEVICE))
    wanted = _wanted()
    rows = rows_within(budget_of("auto", DEVICE), model, model, images[:1])
    steps = _steps(_heat(model, images, wanted, rows), grey, content, wanted)
    name = f"distilling and boosting, {int(wanted.sum())} maps of {len(images)} images at {SIZE}"
    whole = compare(
        name,
        "images/s",
        lambda: rate_of(len(images), lambda: [step() for step in steps.values()]),
        lambda: rate_of(len(images), lambda: _heat(model, images, wanted, rows)),
        f"Integrated Gradients that make them, {STEPS} steps",
        aim=1 / 0.15,
        repetitions=1,
    )
    rates = {
        what: statistics.median(rate_of(len(images), step) for _ in range(REPETITIONS))
        for what, step in steps.items()
    }
    print(costs({**rates, "all, one after the other": whole.ours}, whole.peer or torch.nan))
    return [whole]


def costs(rates: dict[str, float], making: float) -> str:
    """Return a table: seconds per 1,000 images, and their share of what making the maps takes."""
    lines = [f"{'per 1,000 images':28}  {'seconds':>8}  {'share':>7}"]
    lines += [
        f"{what:28}  {1000 / rate:8.2f}  {making / rate:7.2%}" for what, rate in rates.items()
    ]
    return "\n".join([*lines, f"{'Integrated Gradients':28}  {1000 / making:8.0f}"])


def _wanted() -> Tensor:
    """Bool (B, 14), on the device."""
    generator = torch.Generator().manual_seed(1)
    wanted = torch.zeros(len(POSITIVES), len(OBSERVATIONS), dtype=torch.bool)
    for image, number in enumerate(POSITIVES):
        wanted[image, 1 + torch.randperm(len(PLACED), generator=generator)[:number]] = True
    return wanted.to(DEVICE)


def _heat(model: Classifier, images: Tensor, wanted: Tensor, rows: int) -> Tensor:
    found = integrated_gradients(model, images, wanted, steps=STEPS, rows=rows)
    heat_BKSS = images.new_zeros((*wanted.shape, SIZE, SIZE))
    heat_BKSS[found.image_P, found.class_P] = found.map_PSS
    return heat_BKSS.clamp_(min=0)[:, 1:]


def _steps(heat: Tensor, grey: Tensor, content: Tensor, wanted: Tensor) -> dict[str, Step]:
    """Go through all steps once, and return each with the input that it had."""
    allowed, device = wanted[:, 1:], heat.device
    grey_there, content_there = grey.to(device), content.to(device)
    models: Sequence[Tensor] = [heat, heat.roll(3, dims=3)]
    trust = completeness_weight(torch.full((len(models), *allowed.shape), 0.05, device=device), 0.2)

    def regions() -> Tensor:
        return torch.from_numpy(superpixels(grey.numpy(), content.numpy(), REGIONS)).to(device)

    def cut() -> Tensor:
        return heat_to_mask(
            pool, SIZE, "mass", threshold=MASS, content_B4=content_there, allowed_BK=allowed
        ).mask_BKSS

    own = [scaled(maps, "mass") for maps in models]
    one = combined(own, trust_MBK=trust)
    boxed = box_mean(one, BOX, content_there)
    smooth = edge_aware(boxed, grey_there, content_there, GUIDE_REACH, GUIDE_SMOOTHNESS)
    region = regions()
    pool = pooled(smooth, region)
    mask = cut().cpu().numpy()
    large = without_small(mask, SMALLEST)
    return {
        "scale, two models": lambda: [scaled(maps, "mass") for maps in models],
        "combine, two models": lambda: combined(own, trust_MBK=trust),
        "box": lambda: box_mean(one, BOX, content_there),
        "edge-aware": lambda: edge_aware(
            boxed, grey_there, content_there, GUIDE_REACH, GUIDE_SMOOTHNESS
        ),
        "superpixels": regions,
        "pooling": lambda: pooled(smooth, region),
        "mass threshold": cut,
        "small regions": lambda: without_small(mask, SMALLEST),
        "band": lambda: ignore_band(large, BAND, content.numpy()),
    }
