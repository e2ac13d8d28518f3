"""Learning 14 observations from image labels: the task of the classifier stage.

Validation is CheXpert's: AUROC at study level (maximum over a study's views), selection on the
mean of the five competition observations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chexseg_platform import config
from chexseg_platform.data.mix import Batches, Mix
from chexseg_platform.data.store import Store
from chexseg_platform.findings import COMPETITION, OBSERVATIONS
from chexseg_platform.models.batch import forward_batch
from chexseg_platform.models.classifier import (
    Classifier,
    ClassifierSpec,
    build_classifier,
    classification_loss,
    dump_classifier,
    targets,
)
from chexseg_platform.models.preprocess import Preprocess, preset
from chexseg_platform.training.augment import prepare
from chexseg_platform.training.batches import (
    augment_of,
    chunks,
    content_tensor,
    image_tensor,
    step_generator,
)
from chexseg_platform.training.fit import rank_and_world, sum_over_workers
from chexseg_platform.training.loop import Batch, Group, one_group
from chexseg_platform.training.metrics import study_auroc


class NothingToLearn(ValueError):
    """There is no training image, or no label among them."""


def spec_of(settings: config.Classifier) -> ClassifierSpec:
    """Return the model's shape under some settings."""
    return ClassifierSpec(
        encoder=settings.encoder,
        output_stride=settings.output_stride,
        three_class=settings.uncertain == "three-class",
    )


def check_labels(store: Store, split: str = "train") -> list[str]:
    """Return the observations without a single positive label in a split.

    Raises:
        NothingToLearn: if the split has no image or none of its labels is positive.
    """
    rows = store.rows(split)
    if not len(rows):
        raise NothingToLearn(
            f"the dataset has no image in the {split!r} split; add a table with `split: {split}`"
        )
    positive = (store.labels[rows] == 1).any(axis=0)
    if not positive.any():
        raise NothingToLearn(
            f"no image of the {split!r} split has a positive label, so there is nothing to learn; "
            "check the table's label columns"
        )
    return [name for name, has in zip(OBSERVATIONS, positive, strict=True) if not has]


class Classification:
    """One worker's share of a classifier's training; see `training.fit.Task`.

    Args:
        settings: of the classifier.
        store: images and labels; the splits "train" and "valid" are used.
        seed: of weights and order.
        device: where the model lies.
        weights: folder of encoder weights, or None for random ones.

    Raises:
        NothingToLearn: if no training image has a positive label.
    """

    def __init__(
        self,
        settings: config.Classifier,
        store: Store,
        *,
        seed: int,
        device: torch.device,
        weights: str | None = None,
    ) -> None:
        check_labels(store)
        self.settings, self.store, self.seed, self.device = settings, store, seed, device
        self.rank, self.world = rank_and_world()
        torch.manual_seed(seed)
        self.model: Classifier = build_classifier(spec_of(settings), weights=weights).to(device)
        self.preprocess: Preprocess = preset("chexpert")
        self.augment = augment_of(settings.augment)
        self.train_rows, self.valid_rows = store.rows("train"), store.rows("valid")
        start_at_prevalence(self.model, store.labels[self.train_rows], settings)
        rows = len(self.train_rows)
        self.batches = Batches(
            Mix(rows, 0, 1.0, seed=seed), settings.batch_size, self.rank, self.world
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.last_metrics: dict[str, float] = {}

    def batch(self, step: int) -> Batch:
        rows = self.train_rows[self.batches.rows(step)]
        image_BCSS = prepare(
            image_tensor(self.store, rows, self.device),
            None,
            self.preprocess,
            content_B4=content_tensor(self.store, rows, self.device),
            augment=self.augment,
            generator=step_generator(self.seed, step, self.rank),
        ).image_BCSS
        labels = torch.from_numpy(self.store.labels[rows]).to(self.device, non_blocking=True)
        return {"image": image_BCSS, "labels": labels}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return classification_loss(
            model(batch["image"]), batch["labels"], self.settings.uncertain, self.settings.blank
        )

    def groups(self) -> list[Group]:
        return one_group(self.model)

    def validate(self) -> dict[str, float]:
        """AUROC of each observation, their mean, and the competition mean as the score.

        Where no AUROC exists (a single validation study, say) there is no score.
        """
        rows = self.valid_rows
        scores = predict(
            self.model, self.preprocess, self.store, rows, self.device, (self.rank, self.world)
        )
        self.last_metrics = auroc_metrics(self.store, rows, scores)
        self.last_metrics["score"] = self.last_metrics["auroc competition"]
        return {k: v for k, v in self.last_metrics.items() if math.isfinite(v)}

    def dump(self) -> dict[str, bytes]:
        finite = {k: v for k, v in self.last_metrics.items() if math.isfinite(v)}
        extra = {"size": self.store.size, "metrics": finite}
        return dump_classifier(self.model, self.preprocess, extra)


def start_at_prevalence(
    model: Classifier, labels: NDArray[np.float32], settings: config.Classifier
) -> None:
    """Set the head's bias to the log-odds of each observation among the training labels.

    Findings are rare. With a bias of zero the features first learn to say "absent" everywhere,
    and Grad-CAM, which sees features and not the bias, shows what is left of that.

    Args:
        labels: (N, 14) of the training images, as in `targets`.
    """
    target, weight = targets(torch.from_numpy(labels), settings.uncertain, settings.blank)
    total_K = weight.sum(0) + 2
    with torch.no_grad():
        if settings.uncertain == "three-class":
            counts = [((target == value) * weight).sum(0) + 2 / 3 for value in range(3)]
            bias = torch.stack([torch.log(count / total_K) for count in counts], dim=1).flatten()
        else:
            bias = torch.logit(((target * weight).sum(0) + 1) / total_K)
        model.head.bias.copy_(bias)


@torch.inference_mode()
def predict(
    model: Classifier,
    preprocess: Preprocess,
    store: Store,
    rows: NDArray[np.int64],
    device: torch.device,
    share: tuple[int, int] = (0, 1),
) -> NDArray[np.float32]:
    """Return the probabilities of some rows, float32 (N, 14), in eval mode.

    `share` is (rank, world): each worker predicts its part, and all get the whole.
    """
    model.eval()
    out = torch.zeros(len(rows), len(OBSERVATIONS), device=device)
    mine = np.arange(len(rows))[share[0] :: share[1]]
    for places in chunks(mine, forward_batch(device, store.size)):
        image_BCSS = preprocess(
            image_tensor(store, rows[places], device), content_tensor(store, rows[places], device)
        )
        out[torch.from_numpy(places).to(device)] = model.probabilities(model(image_BCSS))
    return sum_over_workers(out).cpu().numpy()


def auroc_metrics(
    store: Store, rows: NDArray[np.int64], scores: NDArray[np.floating]
) -> dict[str, float]:
    """Return "auroc <observation>", "auroc mean" and "auroc competition"; NaN where undefined."""
    studies = [store.table["study"][int(row)].as_py() for row in rows]
    patients = [store.patients[row] for row in rows]
    keys = [f"{patient}/{study}" for patient, study in zip(patients, studies, strict=True)]
    each = study_auroc(scores, store.labels[rows], keys)
    named = dict(zip(OBSERVATIONS, each.tolist(), strict=True))
    return {
        **{f"auroc {name}": value for name, value in named.items()},
        "auroc mean": _mean(list(named.values())),
        "auroc competition": _mean([named[name] for name in COMPETITION]),
    }


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
