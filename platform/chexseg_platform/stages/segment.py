"""Training the segmenters of a comparison: every arm and seed is one training and one artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow.compute as pc

from chexseg_platform import config, plan
from chexseg_platform.artifacts import Artifact
from chexseg_platform.data.splits import split_patients, take_images
from chexseg_platform.data.store import read_index
from chexseg_platform.plan import Training
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.orders import Ended, Listener, Masks, Order, start_of, train_orders


class Drawn(NamedTuple):
    """An image on which an expert drew at least one mask."""

    image_id: str
    patient: str


@dataclass(frozen=True)
class Experts:
    """Who drew for what: expert-labelled images by patient, those held for validation apart.

    Attributes:
        train: images to learn from.
        valid: images for thresholds and the choice of a checkpoint.
    """

    train: tuple[Drawn, ...]
    valid: tuple[Drawn, ...]

    @property
    def held(self) -> list[str]:
        """The patients held for validation, sorted."""
        return sorted({drawn.patient for drawn in self.valid})

    def choose(self, count: int | None, seed: int) -> list[str]:
        """Return `count` training images (all where None); the first 10 are among the first 30.

        Raises:
            ValueError: if there are not so many.
        """
        if count is not None and count > len(self.train):
            raise ValueError(
                f"segmenter.expert_masks is {count}, but there are {len(self.train)} "
                f"expert-labelled images beside the {len(self.valid)} held for validation"
            )
        return [drawn.image_id for drawn in take_images(self.train, count, seed)]


def experts_of(dataset: Artifact, held_share: float, seed: int) -> Experts:
    """Split the expert-labelled validation images by patient: to learn from, and held.

    The split depends on the patients, the share and the seed alone.
    """
    index = read_index(dataset).select(["image_id", "patient", "split", "masks"])
    drawn = [
        Drawn(row["image_id"], row["patient"])
        for row in index.filter(pc.equal(index["split"], "valid")).to_pylist()
        if row["masks"]
    ]
    held, _ = split_patients({item.patient for item in drawn}, held_share, seed)
    return Experts(
        tuple(item for item in drawn if item.patient not in held),
        tuple(item for item in drawn if item.patient in held),
    )


@dataclass(frozen=True)
class Inputs:
    """What segmenters learn from; `pretrained` by family, those that an arm starts from."""

    dataset: Artifact
    pseudolabels: Artifact
    classifier: Artifact
    experts: Experts
    pretrained: Mapping[str, Artifact] = field(default_factory=dict)

    def print_of(self, experiment: config.Experiment, training: Training) -> str:
        """Return the fingerprint of a training's segmenter."""
        return plan.segmenter_print(
            experiment,
            training,
            self.dataset.fingerprint,
            self.classifier.fingerprint,
            self.pseudolabels.fingerprint,
        )


def segment(
    context: Context,
    experiment: config.Experiment,
    trainings: Sequence[Training],
    inputs: Inputs,
    listen: Listener = lambda order, note: None,
    ended: Ended = lambda order, artifact: None,
) -> list[Artifact]:
    """Train the segmenters of arms and seeds; see `orders.train_orders`."""
    orders = [order_of(context, experiment, training, inputs) for training in trainings]
    return train_orders(context, "segment", orders, listen, ended)


def order_of(
    context: Context, experiment: config.Experiment, training: Training, inputs: Inputs
) -> Order:
    """Return the order for an arm and a seed."""
    wish = training.settings
    p = wish.expert_probability
    return Order(
        key=training.key,
        print_=inputs.print_of(experiment, training),
        settings=wish,
        masks=Masks(
            inputs.dataset,
            expert=inputs.experts.choose(wish.expert_masks, training.seed) if p > 0 else [],
            valid=[drawn.image_id for drawn in inputs.experts.valid],
            pseudolabels=inputs.pseudolabels if p < 1 else None,
        ),
        start=start_of(wish, inputs.classifier, context.weights, inputs.pretrained),
        seeds=(experiment.seed, training.seed),
        about={"arm": training.arm},
    )
