"""Pre-training on pseudo-labels and fine-tuning on few masks: `pretrain` and `finetune`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from chexseg_platform.config.base import (
    Fraction,
    Section,
    Seeds,
    check_name,
    check_variants,
    each_once,
)
from chexseg_platform.config.data import Collection, Phantom
from chexseg_platform.config.saliency import Saliency
from chexseg_platform.config.training import Segmenter
from chexseg_platform.findings import structure


class Family(Section):
    """A kind of pseudo-labels to pre-train on."""

    saliency: dict[str, Any] = Field(default_factory=dict)
    """What it overrides of `saliency`."""
    rounds: Annotated[int, Field(ge=0)] = 0
    """Of self-distillation: a segmenter that learned the labels makes them anew, and a class keeps
    the new ones only where they agree better with the held experts' masks."""


class Pretrain(Section):
    """Whole segmenters that learn pseudo-labels alone, for others to start from."""

    families: dict[str, Family] = Field(default_factory=lambda: {"doll": Family()}, min_length=1)
    segmenter: dict[str, Any] = Field(default_factory=dict)
    """What the pre-training overrides of `segmenter`; it starts from random weights and trains all
    of them, unless `init` or `adapt` is given here."""

    @field_validator("families")
    @classmethod
    def _fields_of_saliency(cls, families: dict[str, Family]) -> dict[str, Family]:
        for name in families:
            check_name(name)
        check_variants(
            ((name, "saliency"), Saliency, each.saliency) for name, each in families.items()
        )
        return families

    @field_validator("segmenter")
    @classmethod
    def _fields_of_segmenter(cls, segmenter: dict[str, Any]) -> dict[str, Any]:
        if "expert_probability" in segmenter:
            raise ValueError("expert_probability has no part here: pseudo-labels alone are learned")
        check_variants([((), Segmenter, segmenter)])
        return segmenter


Fractions = Annotated[
    list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1), each_once("fraction")
]


class Task(Section):
    """Structures to segment, and images with masks of them."""

    phantom: Phantom | None = None
    collections: list[Collection] = Field(default_factory=list)
    classes: list[str] | None = Field(default=None, min_length=1)
    """Null: what a task of this name means (`lungs`, `heart`, `clavicles`, `organs`,
    `covid-infection`), else every structure that the images have masks of."""
    max_rejected: Fraction = 0.01

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, classes: list[str] | None) -> list[str] | None:
        meant: dict[str, str] = {}
        for given in classes or ():
            name = structure(given)
            if name in meant:
                raise ValueError(f"{meant[name]} and {given} are one class: name it once")
            meant[name] = given
        return classes

    @model_validator(mode="after")
    def _one_source(self) -> Task:
        if (self.phantom is not None) == bool(self.collections):
            raise ValueError("give its phantom or its collections")
        if self.phantom is not None and self.phantom.layout == "chexpert":
            raise ValueError("the phantom of a task has organs: give its layout, such as folder")
        return self


class Finetune(Section):
    """Fine-tunings on few expert masks: tasks x initialisations x fractions x seeds."""

    tasks: dict[str, Task] = Field(min_length=1)
    initialisations: dict[str, str] = Field(
        default_factory=lambda: {
            "random": "random",
            "classifier encoder": "classifier",
            "doll encoder": "encoder:doll",
            "doll": "pretrained:doll",
        },
        min_length=1,
    )
    """By name, as in `segmenter.init`; the last one's gains over the others are reported, and its
    steps beside those of the one that is called `random`."""
    fractions: Fractions = Field(default_factory=lambda: [1.0])
    """Shares of a task's training images that are learned from; smaller ones are among larger."""
    seeds: Seeds = Field(default_factory=lambda: [0])
    segmenter: dict[str, Any] = Field(default_factory=dict)
    """What fine-tuning overrides of `segmenter`; the same for all, so that all have one budget."""

    @field_validator("tasks", "initialisations")
    @classmethod
    def _names(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            check_name(name)
        return named

    @field_validator("segmenter")
    @classmethod
    def _fields_of_segmenter(cls, segmenter: dict[str, Any]) -> dict[str, Any]:
        if "init" in segmenter:
            raise ValueError("init is what `initialisations` gives")
        for name in ("expert_probability", "expert_masks"):
            if name in segmenter:
                raise ValueError(f"{name} has no part here: `fractions` says what is learned from")
        check_variants([((), Segmenter, segmenter)])
        return segmenter
