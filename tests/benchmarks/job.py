"""The whole saliency job, disk to Parquet on Ray, DenseNet-121 at 320 px; and how it scales.

The job is long enough that start-up is a small part of it, and the bare forward over images in
memory, with all threads, is timed right before and right after. Scaling and memory are measured
without Ray's start-up: two processes with a thread each beside one, and the peak memory of driver
and worker over a dataset and over one ten times as large.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import psutil
import torch
from chexseg_platform import config
from chexseg_platform.artifacts import Artifact
from chexseg_platform.cluster import disconnect
from chexseg_platform.stages.explain import Models, explain
from chexseg_platform.stages.models import load_models
from chexseg_platform.stages.shards import LabelShards, batches, read_rows

from tests.benchmarks.harness import Row, rate_of
from tests.benchmarks.hotpath import DEVICE, autocast, fastest_format
from tests.benchmarks.material import Place

IMAGES, SCALED, SIZE = 3000, 100, 320
FEW, MANY, SMALL = 400, 4000, 64
PICKLES = 23e6
"""Bytes an image of CheXlocalize's heat maps: 14 files of 1.64 MB."""


def run(place: Place) -> list[Row]:
    """The job, its bytes, its scaling, its memory."""
    classifier = place.classifier("densenet121")
    return [
        *_job(place, place.dataset(IMAGES, SIZE), classifier),
        _scaling(place, place.dataset(SCALED, SIZE), classifier),
        *_memory(place),
    ]


def _job(place: Place, dataset: Artifact, classifier: Artifact) -> Iterator[Row]:
    images = sum(part.rows or 0 for part in dataset.parts("rows/"))
    before = _bare(dataset, classifier)
    context = place.context("job")
    context.connect()
    made: list[Artifact] = []
    ours = rate_of(
        images, lambda: made.append(explain(context, _experiment(SIZE), dataset, [classifier]))
    )
    disconnect()
    peer = (before + _bare(dataset, classifier)) / 2
    yield Row(
        name=f"saliency job on Ray, densenet121 at 320, {images} images",
        ours=ours,
        unit="images/s",
        peer=peer,
        peer_name="bare forward in memory, all threads",
        ratio=ours / peer,
        aim=0.9,
    )
    written = sum(part.bytes for part in made[0].parts() if part.name != "saliency.png") / images
    yield Row(
        name="bytes of pseudo-labels, times smaller",
        ours=written,
        unit="bytes/image",
        peer=PICKLES,
        peer_name="CheXlocalize's pickles",
        ratio=PICKLES / written,
        aim=5000,
    )


def _experiment(size: int, **saliency: Any) -> config.Experiment:
    data = config.Data(phantom=config.Phantom(), size=size)
    return config.Experiment(name="bench", data=data, saliency=config.Saliency(**saliency))


def _bare(dataset: Artifact, classifier: Artifact) -> float:
    model, preprocess = load_models(classifier)[0]
    table = read_rows(dataset, dataset.parts("rows/")[0].name).slice(0, 48)
    inputs = [
        preprocess(torch.from_numpy(images.grey), torch.from_numpy(images.content)).to(DEVICE)
        for images, _ in batches(table, SIZE, 8)
    ]
    model.to(DEVICE).to(memory_format=fastest_format(model.to(DEVICE), inputs[0]))

    @torch.inference_mode()
    def forward() -> None:
        with autocast():
            for input_BCSS in inputs:
                model(input_BCSS)

    return max(rate_of(table.num_rows, forward) for _ in range(3))


def _scaling(place: Place, dataset: Artifact, classifier: Artifact) -> Row:
    """Every process explains the shard for itself; all begin at once, with models loaded."""
    rates = [_together(place, dataset, classifier, workers) for workers in (1, 2, 2, 1)]
    one, two = rates[0] + rates[3], rates[1] + rates[2]
    return Row(
        name="two saliency workers with one thread each",
        ours=two / 2,
        unit="images/s",
        peer=one / 2,
        peer_name="one worker with one thread",
        ratio=two / one,
        aim=1.8,
    )


_NUMBERS = count()


def _together(place: Place, dataset: Artifact, classifier: Artifact, workers: int) -> float:
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(workers), context.Queue()
    work, workspace = Models(config.Saliency(), (classifier,)).work(), place.context().workspace
    drafts = [workspace.draft("pseudolabels", f"scaling-{next(_NUMBERS)}") for _ in range(workers)]
    begun = [
        context.Process(target=_worker, args=(barrier, rates, work, dataset, draft))
        for draft in drafts
    ]
    for process in begun:
        process.start()
    found = [rates.get() for _ in begun]
    for process in begun:
        process.join()
    return sum(found)


def _worker(barrier: Any, rates: Any, work: Any, dataset: Artifact, draft: Any) -> None:
    actor = LabelShards(work, dataset, draft, 8, 1)
    assert actor.label
    shard = dataset.parts("rows/")[0]
    barrier.wait()
    rates.put(rate_of(shard.rows or 0, lambda: actor.item(shard.name)))


def _memory(place: Place) -> Iterator[Row]:
    """Each job has a driver of its own, a fresh process."""
    classifier = place.classifier("resnet18")
    peaks = []
    for images in (FEW, MANY):
        dataset = place.dataset(images, SMALL)
        driver = multiprocessing.get_context("spawn").Process(
            target=_explain_once, args=(place, f"memory-{images}", dataset, classifier)
        )
        driver.start()
        peaks.append(_watch(psutil.Process(driver.pid), driver.is_alive))
    for who in ("driver", "worker"):
        few, many = (peak[who] / 2**20 for peak in peaks)
        yield Row(
            name=f"peak memory of the {who}, {FEW} to {MANY} images",
            ours=many,
            unit="MiB",
            peer=few,
            peer_name=f"{FEW} images",
            ratio=few / many,
            aim=0.9,
        )


def _explain_once(place: Place, name: str, dataset: Artifact, classifier: Artifact) -> None:
    context = place.context(name)
    context.connect()
    explain(context, _experiment(SMALL), dataset, [classifier])
    disconnect()


def _watch(driver: psutil.Process, running: Callable[[], bool]) -> dict[str, int]:
    """Return the largest resident size, in bytes, of a driver and of any saliency worker."""
    peak = {"driver": 0, "worker": 0}
    while running():
        found = {"driver": [driver], "worker": []}
        for process in psutil.process_iter(["cmdline"]):
            if "PoolWorker" in " ".join(process.info["cmdline"] or []):
                found["worker"].append(process)
        for who, processes in found.items():
            for process in processes:
                with suppress(psutil.Error):
                    peak[who] = max(peak[who], process.memory_info().rss)
        time.sleep(0.1)
    return peak
