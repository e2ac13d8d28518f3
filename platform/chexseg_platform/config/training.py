"""Classifiers and segmenters, and how they are trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from chexseg_platform.config.base import Fraction, Positive, PositiveFloat, Section


class Augment(Section):
    """Random changes of training images; none by default, as in the papers."""

    rotate: Annotated[float, Field(ge=0, le=45)] = 0.0
    """Largest rotation, degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    translate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flip: Fraction = 0.0
    """Chance to mirror left and right. The heart then lies on the wrong side."""


class Fit(Section):
    """What every training shares."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    lr: PositiveFloat = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    batch_size: Positive = 16
    """Images a step over all workers together."""
    epochs: PositiveFloat = 3.0
    validations_per_epoch: PositiveFloat = 1.0
    """How often to validate and to write a checkpoint."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 elsewhere."""
    augment: Augment = Field(default_factory=Augment)


class Classifier(Fit):
    """The multi-label classifier that is explained."""

    encoder: str = "densenet121"
    weights: str | None = None
    """null: random; `imagenet`: fetched once by `chexseg-platform fetch-weights`; or a folder like
    those that it writes, here or on s3://, gs://."""
    output_stride: Literal[8, 16, 32] = 32
    uncertain: Literal["ignore", "zeros", "ones", "three-class"] = "ignore"
    blank: Literal["negative", "ignore"] = "negative"
    keep: Positive = 10
    """How many of the best checkpoints are kept and averaged."""


class Segmenter(Fit):
    """One segmentation model; an arm of the comparison overrides some of these fields."""

    optimizer: Literal["adam", "adamw"] = "adam"
    batch_size: Positive = 8
    epochs: PositiveFloat = 20.0
    architecture: str = "DeepLabV3Plus"
    encoder: str = "resnet18"
    output_stride: Literal[8, 16, 32] | None = None
    """Null: the architecture's own."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the architecture, e.g. `decoder_atrous_rates: [2, 4, 6]`."""
    init: str = "random"
    """`random`, `imagenet`, `classifier` (its encoder), `pretrained:<family>` or `encoder:<family>`
    (what `pretrain` makes: all of it but the head, or its encoder), or `segmenter:<folder>`: of an
    artifact or of a checkpoint, here or on s3://, gs://."""
    adapt: Literal["full", "frozen-encoder", "low-rank"] = "full"
    """What is trained: everything; all but the encoder, which stays as it is, running statistics
    included; or low-rank updates of the encoder's convolutions and linear layers, beside decoder
    and head (LoRA). What is kept is a plain segmenter in any case."""
    rank: Positive = 8
    """Of `adapt: low-rank`: a layer's update is a product of two matrices of this inner size."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The head learns at `lr`, the decoder at this share of it, the encoder's stages from the
    deepest on at this share of the rate above them; 1: all at `lr`."""
    loss: Literal["dice", "bce", "dice+bce"] = "dice"
    class_weight: Literal["none", "balanced"] = "none"
    """balanced: a class counts in inverse proportion to the share of rows that show it among the
    rows to learn from that label it, up to ten times the class shown most; the mean weight is 1."""
    background_weight: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of `bce`: what a background pixel counts beside one of foreground; PSSL takes 0.1."""
    expert_probability: Fraction = 0.9
    """Chance that a draw is an expert row; 1: fully supervised, 0: pseudo-labels only."""
    expert_masks: Positive | None = None
    """How many expert-labelled images to use; null: all that are not held for validation."""
    expert_validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the expert patients held for thresholds and checkpoint choice."""
    epoch_images: Positive | None = None
    """Draws an epoch; null: expert and pseudo rows together, as CheXseg does."""
    max_repeats: Positive | None = None
    """How often one expert row may be drawn in an epoch; null: no cap."""
    threshold: Literal["tuned"] | Fraction = "tuned"
