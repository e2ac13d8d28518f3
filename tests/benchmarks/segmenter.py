"""Training a segmenter on the mix as a worker does, beside the same model on tensors in memory.

Ours draws the mix, decodes run-length masks, normalises, and leaves unlabelled channels out of
the loss; the bare loop has its batches ready and takes segmentation_models_pytorch's losses.
"""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from chexseg_platform import config
from chexseg_platform.data.store import MaskRows, Store, expert_rows
from chexseg_platform.training.loop import Batch
from chexseg_platform.training.segmentation import Segmentation
from torch import Tensor

from tests.benchmarks.harness import Row, compare
from tests.benchmarks.material import Place
from tests.benchmarks.training import DEVICE, bare_rate, fit_rate

SIZE, IMAGES, STEPS, SEED = 128, 800, 12, 5
WISH = config.Segmenter(
    architecture="DeepLabV3Plus",
    encoder="resnet18",
    loss="dice+bce",
    batch_size=16,
    epochs=1,
    epoch_images=STEPS * 16,
    expert_probability=0.5,
)
_DICE = smp.losses.DiceLoss(mode="multilabel", from_logits=True)


def run(place: Place) -> list[Row]:
    """Compare the loops; expert masks stand in for pseudo-masks, which are as many and as large."""
    store = place.store(IMAGES, SIZE)

    def task() -> Segmentation:
        return _task(store)

    made = task()
    batches = [made.batch(step) for step in range(STEPS)]
    ready = [{**batch, "mask": batch["mask"].float()} for batch in batches]
    return [
        compare(
            "segmenter training",
            "images/s",
            lambda: fit_rate(task(), WISH),
            lambda: bare_rate(task().model, WISH, ready, _loss),
            "forward, backward, step in memory",
            aim=0.9,
        )
    ]


def _task(store: Store) -> Segmentation:
    rows = store.rows("valid", expert=True)
    half = len(rows) // 2
    return Segmentation(
        WISH,
        store,
        expert=expert_rows(store, rows[:half]),
        pseudo=expert_rows(store, rows[half:]),
        valid=MaskRows.empty(),
        seed=SEED,
        device=DEVICE,
    )


def validated(place: Place) -> Segmentation:
    """A task with forty validation images, as CheXseg holds back."""
    store = place.store(IMAGES, SIZE)
    rows = store.rows("valid", expert=True)
    some = expert_rows(store, rows[:-40])
    return Segmentation(
        WISH,
        store,
        expert=some,
        pseudo=some,
        valid=expert_rows(store, rows[-40:]),
        seed=SEED,
        device=DEVICE,
    )


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    dice: Tensor = _DICE(logits, batch["mask"])
    return dice + F.binary_cross_entropy_with_logits(logits, batch["mask"])
