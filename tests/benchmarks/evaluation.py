"""Evaluation beside what people do: decode and count, loop over resamples; and what it adds.

Masks are the phantom's outlines, truth and second reader, drawn at 2,000 x 2,500 pixels: 668 images
of ten findings, as CheXlocalize's test set has. Readers mark only what is there, so on half of the
absent findings the prediction gets the outline of another image. The last rows are no races: how
much of a training epoch its validation metrics take, and how often a 95 % interval holds the truth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from chexseg_platform.data import masks
from chexseg_platform.data.overlaps import overlaps
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.evaluation.bootstrap import interval, replicate, resampling
from chexseg_platform.evaluation.comparison import compare as compare_methods
from chexseg_platform.evaluation.counts import TRAITS, CountCube
from chexseg_platform.evaluation.metrics import METRICS, Terms, ratio
from chexseg_platform.findings import CHEXLOCALIZE_NAMES, FINDINGS
from chexseg_platform.models.batch import forward_batch
from chexseg_platform.training.batches import chunks, content_tensor, image_tensor
from chexseg_platform.training.fit import fit
from chexseg_platform.training.metrics import PooledIoU
from chexseg_platform.training.segmentation import predict_batch
from pycocotools import mask as coco

from tests.benchmarks import segmenter
from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.material import Place
from tests.benchmarks.training import DEVICE

IMAGES, HEIGHT, WIDTH = 668, 2000, 2500
DECODED = 40
"""Images of which the peer decodes masks: enough for its rate."""
LOOPED = 50
"""Resamples that the peer loops over."""


def run(place: Place) -> list[Row]:
    """Count, resample, validate, and see how often intervals hold the truth."""
    truth, prediction = _masks(place)
    counts = _count(truth, prediction)
    cube = _cube(counts)
    return [
        compare(
            f"IoU of {IMAGES} x {len(FINDINGS)} masks at {HEIGHT:,} x {WIDTH:,}",
            "images/s",
            lambda: rate_of(IMAGES, lambda: _count(truth, prediction)),
            lambda: rate_of(DECODED, lambda: _check(truth, prediction, counts)),
            "pycocotools and NumPy",
            aim=100,
            repetitions=3,
        ),
        compare(
            "resamples, every metric and finding, with intervals",
            "resamples/s",
            lambda: rate_of(1000, lambda: compare_methods(cube, resamples=1000)),
            lambda: rate_of(LOOPED, lambda: _loop(cube)),
            "a loop with pandas",
            aim=100,
            repetitions=3,
        ),
        _validation(place),
        *_coverage(),
    ]


def _masks(place: Place) -> tuple[list[str | None], list[str | None]]:
    """Truth and prediction of every image and finding; None is empty."""
    folder = place.folder / "phantom-evaluation"
    write_phantom(folder, train=0, valid=0, test=IMAGES, size=128, seed=1)
    truth, second = (_outlines(folder, reader) for reader in ("gt", "hb"))
    rng = np.random.default_rng(2)
    shared = [drawn for drawn in second if drawn is not None]
    for place_, drawn in enumerate(second):
        if drawn is None and rng.random() < 0.5:
            second[place_] = shared[rng.integers(len(shared))]
    return truth, second


def _outlines(folder: Path, reader: str) -> list[str | None]:
    path = folder / "CheXlocalize" / f"{reader}_annotations_test.json"
    images = json.loads(path.read_text())
    ids = sorted(images) + [""] * (IMAGES - len(images))
    return [
        _drawn(images.get(image_id), name)
        for image_id in ids
        for name in CHEXLOCALIZE_NAMES.values()
    ]


def _drawn(image: Mapping[str, list] | None, name: str) -> str | None:
    if image is None or not image.get(name):
        return None
    scale = np.array([WIDTH, HEIGHT]) / np.array(image["img_size"])[::-1]
    polygons = [(np.array(polygon) * scale).tolist() for polygon in image[name]]
    return masks.encode(masks.rasterise(polygons, HEIGHT, WIDTH))


def _count(truth: list[str | None], prediction: list[str | None]) -> np.ndarray:
    sides = np.full(len(truth), HEIGHT), np.full(len(truth), WIDTH)
    return overlaps(truth, prediction, *sides)


def _check(truth: list[str | None], prediction: list[str | None], counts: np.ndarray) -> None:
    """The peer's way; and the IoU of both must be the same."""
    empty = masks.encode(np.zeros((HEIGHT, WIDTH), bool))
    for index in range(DECODED * len(FINDINGS)):
        pair = [
            coco.decode({"size": [HEIGHT, WIDTH], "counts": (one[index] or empty).encode()})
            for one in (truth, prediction)
        ]
        union = np.sum(np.logical_or(*pair))
        theirs = np.sum(np.logical_and(*pair)) / union if union else np.nan
        first, second, both = counts[index]
        ours = ratio(both, first + second - both)
        assert np.isclose(ours, theirs, rtol=0, atol=1e-12, equal_nan=True)


def _cube(counts: np.ndarray) -> CountCube:
    """Counts as a cube of one method, four images in ten second views of their patients."""
    shape = (1, IMAGES, len(FINDINGS))
    truth, prediction, both = counts.T.reshape(3, *shape)
    return CountCube(
        runs=(("mine", 0),),
        image_ids=tuple(f"image{index}" for index in range(IMAGES)),
        patients=tuple(f"patient{index % 500}" for index in range(IMAGES)),
        findings=FINDINGS,
        truth=truth,
        prediction=prediction,
        intersection=both,
        hit=np.where(truth > 0, 1.0, np.nan),
        hd95=np.where((truth > 0) & (prediction > 0), 10.0, np.nan),
        known=np.ones(shape, bool),
        pixels=np.full(IMAGES, HEIGHT * WIDTH),
        traits=dict.fromkeys(TRAITS, (None,) * IMAGES),
    )


def _loop(cube: CountCube) -> None:
    """Every metric in resamples of images, one after the other, as CheXlocalize's script does."""
    frames = []
    for terms in (metric(cube) for metric in METRICS.values()):
        pair = [pd.DataFrame(part[0], columns=list(cube.findings)) for part in terms]
        frames.append(pair)
    draws = np.random.default_rng(0)
    for _ in range(LOOPED):
        rows = draws.integers(0, IMAGES, IMAGES)
        for numerator, denominator in frames:
            first, second = numerator.iloc[rows], denominator.iloc[rows]
            {name: first[name].sum() / max(second[name].sum(), 1) for name in cube.findings}


def _validation(place: Place) -> Row:
    """An epoch's time as a multiple of what its validation metrics take."""
    task = segmenter.validated(place)
    began = time.perf_counter()
    for _ in fit(task, segmenter.WISH, DEVICE):
        pass
    epoch = time.perf_counter() - began
    grid, seconds = PooledIoU(len(FINDINGS), device=DEVICE), 0.0
    for items in chunks(np.arange(len(task.valid)), forward_batch(DEVICE, task.store.size)):
        rows = task.valid.rows[items]
        truth = torch.from_numpy(task.valid.decode(items, task.store.size)).to(DEVICE)
        content = content_tensor(task.store, rows, DEVICE)
        images = image_tensor(task.store, rows, DEVICE)
        probability = predict_batch(task.model, task.preprocess, images, content)
        began = time.perf_counter()
        grid.update(probability, truth, content_B4=content)
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    grid.best()
    seconds += time.perf_counter() - began
    return Row(
        name=f"validation metrics of {len(task.valid)} images, in an epoch of "
        f"{task.steps_per_epoch * segmenter.WISH.batch_size}",
        ours=epoch,
        unit="s/epoch",
        peer=seconds,
        peer_name="its metrics",
        ratio=epoch / seconds,
        aim=20,
    )


PATIENTS = 200
SIMULATIONS = 1000


def _coverage() -> list[Row]:
    """How often 95 % intervals over patients hold the truth of a population that is known."""
    rows = []
    for share in (0.4, 0.1, 0.03):
        held = _held(share)
        for name, value in held.items():
            rows.append(
                Row(
                    name=f"coverage, {name}, {PATIENTS} patients, finding on {share:.0%} of images",
                    ours=100 * value,
                    unit="% of intervals",
                    peer=95.0,
                    peer_name="what they claim (aim 93 to 97)",
                )
            )
    return rows


def _held(share: float) -> dict[str, float]:
    rng = np.random.default_rng(7)
    names = ("iou_present", "iou_union", "iou_pooled")
    population = _simulated(rng, 200_000, share)
    expected = {name: _value(METRICS[name](population)) for name in names}
    inside = dict.fromkeys(names, 0)
    defined = dict.fromkeys(names, 0)
    for number in range(SIMULATIONS):
        cube = _simulated(rng, PATIENTS, share)
        draws = resampling(cube, resamples=1000, seed=number)
        for name in names:
            low, high, _ = interval(replicate(METRICS[name](cube), draws)[1:, 0, 0])
            if not np.isnan(low):
                defined[name] += 1
                inside[name] += bool(low <= expected[name] <= high)
    return {name: inside[name] / defined[name] for name in names}


def _value(terms: Terms) -> float:
    return float(ratio(terms.numerator.sum(), terms.denominator.sum()))


def _simulated(rng: np.random.Generator, patients: int, share: float) -> CountCube:
    """Patients of one to three images who differ in how well a method does on them."""
    views = rng.choice([1, 2, 3], size=patients, p=[0.7, 0.25, 0.05])
    patient = np.repeat(np.arange(patients), views)
    shown = (rng.random(patients) < share)[patient] & (rng.random(len(patient)) < 0.9)
    skill = rng.beta(4, 4, patients)[patient]
    truth = np.where(shown, rng.lognormal(11, 0.8, len(patient)), 0).astype(np.int64)
    quality = np.clip(skill + rng.normal(0, 0.15, len(patient)), 0.02, 0.98)
    found = rng.random(len(patient)) < np.where(shown, 0.85, 0.1)
    both = np.where(found, truth * quality, 0).astype(np.int64)
    beyond = np.where(found, rng.lognormal(10, 0.8, len(patient)), 0).astype(np.int64)
    nothing = np.full((1, len(patient), 1), np.nan)
    return CountCube(
        runs=(("mine", 0),),
        image_ids=tuple(map(str, range(len(patient)))),
        patients=tuple(map(str, patient)),
        findings=("one",),
        truth=truth[None, :, None],
        prediction=(both + beyond)[None, :, None],
        intersection=both[None, :, None],
        hit=nothing,
        hd95=nothing,
        known=np.ones((1, len(patient), 1), bool),
        pixels=np.full(len(patient), 10**7),
        traits=dict.fromkeys(TRAITS, (None,) * len(patient)),
    )
