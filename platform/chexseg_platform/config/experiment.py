"""The experiment file as a whole, its sweep, its evaluation, and where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from chexseg_platform.config.base import (
    Positive,
    PositiveFloat,
    Section,
    Seed,
    Seeds,
    Variant,
    check_name,
    check_variants,
)
from chexseg_platform.config.data import Data
from chexseg_platform.config.finetuning import Finetune, Pretrain
from chexseg_platform.config.saliency import Saliency
from chexseg_platform.config.training import Classifier, Segmenter
from chexseg_platform.starts import family_of


class Evaluation(Section):
    """The comparison at the end.

    On test images only: segmenters learn from the validation images' masks, and choose
    thresholds by them.
    """

    split: Literal["test"] = "test"
    resamples: Annotated[int, Field(ge=100)] = 1000
    cluster: Literal["patient", "image"] = "patient"
    seed: Seed = 0
    overlays: Annotated[int, Field(ge=0, le=200)] = 8


class Tune(Section):
    """A sweep over any fields of `segmenter`, `classifier` and `saliency`."""

    space: dict[str, list[Any]] = Field(
        default_factory=lambda: {"expert_probability": [0.0, 0.25, 0.5, 0.75, 1.0]}, min_length=1
    )
    """Values of each field: `saliency.threshold`, or bare for the segmenter's own."""
    seeds: Seeds = Field(default_factory=lambda: [0, 1, 2])
    scheduler: Literal["grid", "asha"] = "grid"
    grace: Annotated[float, Field(gt=0, le=1)] = 0.25
    """ASHA: share of its training before a trial may be stopped."""
    reduction: Annotated[int, Field(ge=2)] = 3

    @field_validator("space")
    @classmethod
    def _fields_there_are(cls, space: dict[str, list[Any]]) -> dict[str, list[Any]]:
        fields = [swept_field(name) for name in space]
        for name, values in space.items():
            if not values:
                raise ValueError(f"{name} has no values")
            if any(values.count(value) > 1 for value in values):
                raise ValueError(f"{name} has the same value twice")
            if fields.count(swept_field(name)) > 1:
                raise ValueError(f"{swept_field(name)} is given twice")
        check_variants(_variant(name, value) for name, values in space.items() for value in values)
        return space


RESERVED_ARMS = ("pseudo-labels", "radiologists")
"""Methods that every comparison holds beside the arms."""


OBJECT_STORE_BYTES = 1 << 30
"""What a private Ray holds in shared memory for objects that its workers pass on."""


class Resources(Section):
    """Where and how it runs; no part of any fingerprint.

    A cluster that starts GPUs when they are asked for is asked by a number for `gpus_per_worker`,
    times `workers` and `parallel_trainings`; with auto a run takes the GPUs that are up.
    """

    workers: Positive | Literal["auto"] = "auto"
    """Training workers; auto: one a GPU, or one on a machine without."""
    min_workers: Positive | None = None
    """A training of several workers goes on with so few when nodes are lost, and grows again; null:
    it waits for all. A batch is `batch_size` images whatever their number."""
    cpus_per_worker: PositiveFloat | Literal["auto"] = "auto"
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    parallel_trainings: Positive | Literal["auto"] = "auto"
    """Independent trainings at a time; auto: as many as the cluster holds."""
    saliency_workers: Positive | Literal["auto"] = "auto"
    saliency_batch: Positive | Literal["auto"] = "auto"
    """Images a forward; auto: 64 on a GPU, and on a CPU as many as make 4 of 320 x 320 pixels."""
    saliency_memory: PositiveFloat | Literal["auto"] = "auto"
    """GiB that a worker's backward passes may hold, whatever the batch; auto: 2, or on a GPU, which
    two workers share, a quarter of what is free when the worker starts."""
    cache: str | None = None
    """Folder on each node for decoded images; null: under the user's cache folder."""
    retries: Annotated[int, Field(ge=0)] = 3
    timeout_minutes: PositiveFloat = 5.0
    """How long to wait for resources before giving up with an explanation."""


class Experiment(Section):
    """An experiment file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    description: str = ""
    seed: Seed = 17
    data: Data
    classifier: Classifier = Field(default_factory=Classifier)
    saliency: Saliency = Field(default_factory=Saliency)
    segmenter: Segmenter = Field(default_factory=Segmenter)
    arms: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {
            "expert only": {"expert_probability": 1.0},
            "pseudo only": {"expert_probability": 0.0},
            "mix": {},
        },
        min_length=1,
    )
    seeds: Seeds = Field(default_factory=lambda: [0])
    evaluation: Evaluation = Field(default_factory=Evaluation)
    tune: Tune | None = None
    pretrain: Pretrain | None = None
    finetune: Finetune | None = None
    resources: Resources = Field(default_factory=Resources)

    @field_validator("arms")
    @classmethod
    def _fields_of_segmenter(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in arms:
            if name in RESERVED_ARMS:
                raise ValueError(f"an arm cannot be named {name!r}: the comparison has one")
            check_name(name)
        check_variants(((name,), Segmenter, fields) for name, fields in arms.items())
        return arms

    @model_validator(mode="after")
    def _members_differ(self) -> Experiment:
        members = [(member.classifier, member.seed) for member in self.members]
        if any(members.count(member) > 1 for member in members):
            raise ValueError(
                "saliency.ensemble has the same classifier twice: give its entries other fields of "
                "classifier, or another seed"
            )
        return self

    @model_validator(mode="after")
    def _labels_to_learn_from(self) -> Experiment:
        phantom = self.data.phantom
        if self.data.collections or (phantom is not None and phantom.layout != "chexpert"):
            raise ValueError(
                "data has masks of organs and no labels of findings, with which an experiment "
                "begins: give data.tables, or a phantom with the layout chexpert"
            )
        return self

    @model_validator(mode="after")
    def _families_there_are(self) -> Experiment:
        starts = {f"arms.{name}": fields.get("init", "") for name, fields in self.arms.items()}
        starts["segmenter"] = self.segmenter.init
        if self.finetune is not None:
            named = self.finetune.initialisations.items()
            starts |= {f"finetune.initialisations.{name}": init for name, init in named}
        known = set(self.pretrain.families) if self.pretrain else set()
        for place, init in starts.items():
            family = family_of(init)
            if family is not None and family not in known:
                there = f"there is {', '.join(sorted(known))}" if known else "there is no pretrain"
                raise ValueError(
                    f"{place} starts from {init}, which pretrain.families does not name: {there}"
                )
        if self.pretrain is not None and family_of(self.pretraining.init) is not None:
            raise ValueError("pretrain cannot start from itself: set pretrain.segmenter.init")
        return self

    def arm(self, name: str) -> Segmenter:
        """Return the segmenter settings of an arm."""
        return self.variant(self.arms[name]).segmenter

    def family(self, name: str) -> Experiment:
        """Return the experiment whose pseudo-labels are those of a family of `pretrain`."""
        assert self.pretrain is not None
        fields = self.pretrain.families[name].saliency.items()
        return self.variant({f"saliency.{key}": value for key, value in fields})

    @property
    def pretraining(self) -> Segmenter:
        """The settings of a pre-training."""
        assert self.pretrain is not None
        fields = {"init": "random", "adapt": "full", **self.pretrain.segmenter}
        return self._segmenter({**fields, "expert_probability": 0.0})

    def finetuning(self, init: str) -> Segmenter:
        """Return the settings of a fine-tuning from some first weights."""
        assert self.finetune is not None
        fields = {**self.finetune.segmenter, "init": init, "expert_masks": None}
        return self._segmenter({**fields, "expert_probability": 1.0})

    def _segmenter(self, fields: Mapping[str, Any]) -> Segmenter:
        own = self.segmenter.model_dump()
        augment = {**own["augment"], **fields.get("augment", {})}
        return Segmenter.model_validate({**own, **fields, "augment": augment})

    @property
    def members(self) -> tuple[Experiment, ...]:
        """The experiment once for each classifier that is explained: its own, and the ensemble's.

        They differ in `classifier` and `seed` alone.
        """
        return (self, *(self._member(fields) for fields in self.saliency.ensemble))

    def _member(self, fields: Mapping[str, Any]) -> Experiment:
        own = {name: value for name, value in fields.items() if name != "seed"}
        classifier = Classifier.model_validate({**self.classifier.model_dump(), **own})
        seed = fields.get("seed", self.seed)
        return self.model_copy(update={"classifier": classifier, "seed": seed})

    def variant(self, fields: Mapping[str, Any]) -> Experiment:
        """Return the experiment with fields replaced (`swept_field`); in `augment` one by one.

        What is pre-trained stays as it is, whatever becomes of the segmenter's fields.
        """
        value = self.model_dump()
        if self.pretrain is not None:
            excluded = {"expert_validation", "expert_probability"}
            own = self.pretraining.model_dump(exclude=excluded)
            value["pretrain"]["segmenter"] = own
        for key, new in fields.items():
            *sections, name = swept_field(key).split(".")
            place = value
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = {**place[name], **new} if name == "augment" else new
        return Experiment.model_validate(value)


SWEPT: dict[str, Any] = {"segmenter": Segmenter, "classifier": Classifier, "saliency": Saliency}
"""Sections whose fields a sweep can vary; the points of a sweep share all others."""


def swept_field(key: str) -> str:
    """Return a key of `tune.space` as a dotted field: a bare one is the segmenter's."""
    return key if key.partition(".")[0] in Experiment.model_fields else f"segmenter.{key}"


def _variant(key: str, value: Any) -> Variant:
    """Return a value of a sweep as the fields of one section.

    Raises:
        ValueError: where all points of a sweep share the section.
    """
    section, *names = swept_field(key).split(".")
    if section not in SWEPT or not names:
        raise ValueError(
            f"{key} cannot be swept, only fields of {', '.join(SWEPT)}: all points share data, "
            "held patients and evaluation; tune.seeds gives the seeds"
        )
    for name in reversed(names):
        value = {name: value}
    return ((section,) if key.startswith(f"{section}.") else (), SWEPT[section], value)
