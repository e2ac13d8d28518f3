"""Images, labels and masks: the section `data`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chexseg_platform.config.base import Fraction, Positive, Section, Seed, Split, View

CollectionLayout = Literal["jsrt", "covid-qu-ex", "montgomery", "shenzhen", "folder"]


class Phantom(Section):
    """Chest X-ray phantoms, made on the spot (numbers of images)."""

    train: Annotated[int, Field(ge=0)] = 600
    valid: Annotated[int, Field(ge=0)] = 120
    test: Annotated[int, Field(ge=0)] = 120
    size: Annotated[int, Field(ge=32)] = 256
    seed: Seed = 0
    layout: Literal["chexpert"] | CollectionLayout = "chexpert"
    """chexpert: findings, with CheXlocalize's masks; the others: organs and infection, as the
    collections of these names lie on a disk."""

    @model_validator(mode="after")
    def _some_to_learn_from(self) -> Phantom:
        if self.layout != "chexpert" and self.train < 1:
            raise ValueError("of organs there must be images to learn from: train above 0")
        return self


class Table(Section):
    """One CSV of image labels and, where experts drew, the masks of its images."""

    table: str
    """The CSV file: `train.csv`, `valid.csv`, `test_labels.csv`, `df_chexpert_plus_240401.csv`."""
    split: Split
    layout: Literal["chexpert", "chexpert-plus"] = "chexpert"
    root: str | None = None
    """Folder that the CSV's paths start from; by default the folder of the CSV."""
    labels: str | None = None
    """Other labels for the same images: a CSV (CheXpert) or JSON Lines (CheXpert Plus)."""
    truth: str | None = None
    """CheXlocalize `gt_segmentations_*.json` or `gt_annotations_*.json`."""
    benchmark: str | None = None
    """CheXlocalize `hb_segmentations_*.json`: the second readers."""
    points: str | None = None
    """CheXlocalize `hb_salient_pt_*.json`."""
    limit: Positive | None = None
    """Take only the first images; for a quick try."""


class Collection(Section):
    """Images with a mask file for each structure, in one of the layouts that are read."""

    layout: CollectionLayout
    root: str
    """Its folder. folder: `images/NAME.png` and `masks/STRUCTURE/NAME.png`, with or without
    `train`, `valid` and `test` above."""
    masks: str | None = None
    """Of jsrt and shenzhen: the folder of the masks, where they lie apart."""
    tree: Literal["infection", "lungs"] = "infection"
    """Of covid-qu-ex: which of its two trees; infection has lung masks, too."""
    test_fold: Literal[1, 2] = 2
    """Of jsrt: which of SCR's folds is tested on."""
    valid: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the patients for validation, where the collection has no such split."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the patients for the test, where it has no such split."""
    seed: Seed = 0
    """Of these shares."""
    limit: Positive | None = None
    """Take only so many images, evenly from all splits; for a quick try."""

    @model_validator(mode="after")
    def _some_to_learn_from(self) -> Collection:
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together must be below 1, or nothing is left to learn")
        return self


class Data(Section):
    """Which images, and the square size at which everything runs."""

    phantom: Phantom | None = None
    tables: list[Table] = Field(default_factory=list)
    collections: list[Collection] = Field(default_factory=list)
    size: Annotated[int, Field(ge=32, le=2048)] = 320
    views: list[View] = Field(default=["frontal", "lateral"], min_length=1)
    max_rejected: Fraction = 0.01

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        given = [self.phantom is not None, bool(self.tables), bool(self.collections)]
        if sum(given) != 1:
            raise ValueError("give one of data.phantom, data.tables and data.collections")
        return self
