"""Pseudo-labels, shard in to shard out, beside a bare forward over images that are in memory.

Ours reads Parquet, normalises, runs the classifier, makes Grad-CAM of every class, cuts masks,
encodes them and writes two parts. The whole job on Ray Data, its actors' start-up and model loading
included, stands alone: on few images that is most of its time.
"""

from __future__ import annotations

from itertools import count

import torch
from chexseg_platform import config
from chexseg_platform.artifacts import Artifact
from chexseg_platform.stages.explain import Models, explain
from chexseg_platform.stages.models import load_models
from chexseg_platform.stages.shards import LabelShards, batches, read_rows

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.material import Place

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BARE = "bare forward in memory"


def run(place: Place) -> list[Row]:
    """A small model on small images, the papers' model at the papers' size, and the whole job."""
    small, large = place.dataset(800, 128), place.dataset(24, 320)
    resnet, densenet = place.classifier("resnet18", 16), place.classifier("densenet121")
    return [
        _labelled(place, "saliency, resnet18 at 128", small, resnet, batch=25, repetitions=5),
        _labelled(place, "saliency, densenet121 at 320", large, densenet, batch=4, repetitions=3),
        _job(place, "saliency job on Ray, resnet18 at 128", small, resnet),
    ]


def _labelled(
    place: Place,
    name: str,
    dataset: Artifact,
    classifier: Artifact,
    *,
    batch: int,
    repetitions: int,
) -> Row:
    shard = dataset.parts("rows/")[0].name
    images = dataset.part(shard).rows or 0
    numbers, workspace = count(), place.context().workspace

    def labeller() -> LabelShards:
        draft = workspace.draft("pseudolabels", f"{classifier.fingerprint}-{next(numbers)}")
        work = Models(config.Saliency(), (classifier,)).work()
        return LabelShards(work, dataset, draft, batch, place.threads)

    def ours() -> float:
        actor = labeller()
        assert actor.label  # models are loaded before the clock starts
        return rate_of(images, lambda: actor.item(shard))

    size = int(dataset.summary["size"])
    model, preprocess = load_models(classifier)[0]
    model.to(DEVICE)
    inputs = [
        preprocess(torch.from_numpy(images.grey), torch.from_numpy(images.content)).to(DEVICE)
        for images, _ in batches(read_rows(dataset, shard), size, batch)
    ]

    @torch.inference_mode()
    def forward() -> None:
        for input_BCSS in inputs:
            model(input_BCSS)

    return compare(
        name,
        "images/s",
        ours,
        lambda: rate_of(images, forward),
        BARE,
        aim=0.9,
        repetitions=repetitions,
    )


def _job(place: Place, name: str, dataset: Artifact, classifier: Artifact) -> Row:
    experiment = config.Experiment(
        name="bench",
        data=config.Data(phantom=config.Phantom(), size=int(dataset.summary["size"])),
    )
    context = place.context()
    context.connect()
    total = sum(part.rows or 0 for part in dataset.parts("rows/"))
    return Row(
        name=name,
        ours=rate_of(total, lambda: explain(context, experiment, dataset, [classifier])),
        unit="images/s",
    )
