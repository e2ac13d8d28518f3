"""Training the classifier as a worker does, beside the same model on tensors in memory.

The stage through Ray Train stands alone below: it counts its start-up, the workers' imports, the
validation and the checkpoints, which weigh little in a run of hours.
"""

from __future__ import annotations

import torch.nn.functional as F
from chexseg_platform import config
from chexseg_platform.stages.classify import classify
from chexseg_platform.training.classification import Classification
from chexseg_platform.training.loop import Batch
from torch import Tensor

from tests.benchmarks.harness import Row, compare, rate_of
from tests.benchmarks.material import Place
from tests.benchmarks.training import DEVICE, bare_rate, fit_rate

SIZE, IMAGES, STEPS, SEED = 128, 800, 6, 5
WISH = config.Classifier(
    encoder="resnet18", output_stride=16, batch_size=32, epochs=STEPS * 32 / IMAGES, keep=1
)


def run(place: Place) -> list[Row]:
    """Compare the loops, then run the stage once."""
    store = place.store(IMAGES, SIZE)

    def task() -> Classification:
        return Classification(WISH, store, seed=SEED, device=DEVICE)

    made = task()
    batches = [_filled(made.batch(step)) for step in range(STEPS)]
    return [
        compare(
            "classifier training",
            "images/s",
            lambda: fit_rate(task(), WISH),
            lambda: bare_rate(task().model, WISH, batches, _loss),
            "forward, backward, step in memory",
            aim=0.9,
        ),
        Row(
            name="classifier stage, start-up included",
            ours=_stage(place),
            unit="images/s",
        ),
    ]


def _filled(batch: Batch) -> Batch:
    return {**batch, "labels": batch["labels"].nan_to_num(0.0).clamp(min=0.0)}


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, batch["labels"])


def _stage(place: Place) -> float:
    dataset = place.dataset(IMAGES, SIZE)
    experiment = config.Experiment(
        name="bench",
        data=config.Data(phantom=config.Phantom(), size=SIZE),
        classifier=WISH,
    )
    return rate_of(STEPS * WISH.batch_size, lambda: classify(place.context(), experiment, dataset))
