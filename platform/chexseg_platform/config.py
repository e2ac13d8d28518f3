"""The settings of an experiment, typed and strict: what it is, apart from where it runs.

Everything except `resources` decides results and so enters fingerprints; `resources` says where
and how an experiment runs. `configfile` reads these sections from YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from chexseg_platform.findings import FINDINGS, PLACED
from chexseg_platform.starts import family_of

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Split = Literal["train", "valid", "test"]
View = Literal["frontal", "lateral"]
CollectionLayout = Literal["jsrt", "covid-qu-ex", "montgomery", "shenzhen", "folder"]


ARM_NAME = r"[A-Za-z0-9][A-Za-z0-9._ -]{0,47}"


class ConfigError(ValueError):
    """The experiment file or an override is wrong; the message names field, place and remedy."""


def _check_name(name: str) -> None:
    if not re.fullmatch(ARM_NAME, name):
        raise ValueError(f"{name!r} will not do as a name: use letters, digits, spaces and . _ -")


def _each_once(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("the same seed twice would count one training as two")
    return seeds


Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_each_once)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
    """Take only the first images; for a quick try."""

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


class Integrated(Section):
    """Integrated Gradients: where the line starts and how finely it is sampled."""

    baselines: list[Literal["black", "mean", "blurred"]] = Field(default=["black"], min_length=1)
    """Maps from several are averaged."""
    steps: Positive = 8
    """Nodes of the first try; more where the completeness error is above `tolerance`.

    Completeness is of a map's sum: for maps that are near pixel by pixel raise this (64: some 4 %
    off).
    """
    tolerance: Annotated[float, Field(gt=0)] | None = 0.05
    most_steps: Positive = 128
    smooth: Annotated[int, Field(ge=0)] = 0
    """SmoothGrad: how many noisy copies of an image are averaged; 0: the image alone."""
    noise: Annotated[float, Field(ge=0)] = 0.1
    """Of these copies, as a share of the image's range."""


CaptumMethod = Literal["deeplift", "gradient", "guided-backprop", "input-x-gradient", "occlusion"]
SaliencyMethod = Literal["grad-cam", "integrated-gradients", CaptumMethod]


class IRNet(Fit):
    """Boundaries that saliency maps are spread up to (Ahn et al. 2019), learned from the maps.

    The encoder stays as it is; only the branches on top learn.
    """

    optimizer: Literal["adam", "adamw"] = "adam"
    lr: PositiveFloat = 1e-2
    schedule: Literal["constant", "cosine"] = "cosine"
    foreground: Fraction = 0.25
    """Share of a map's maximum above which its pixels are surely the finding."""
    background: Fraction = 0.10
    """Share below which they surely are not; what lies between teaches nothing."""
    refine: Literal["none", "guided", "dense-crf"] = "guided"
    """How these regions are fitted to the image's edges; dense-crf: `pip install pydensecrf2`."""
    radius: Annotated[int, Field(ge=2)] = 10
    """Pairs of cells nearer than this are learned from; a cell is four pixels."""
    walk_radius: Annotated[int, Field(ge=2)] = 3
    """Cells nearer than this are joined in the random walk."""
    beta: PositiveFloat = 5.0
    """Power of the affinities in the walk."""
    steps: Annotated[int, Field(ge=0)] = 8
    """Of the walk."""
    encoder: str | None = None
    """Null: the classifier's."""
    weights: str | None = "classifier"
    """`classifier`: as it was trained; or as in `classifier.weights`."""
    output_stride: Literal[8, 16, 32] | None = None
    """Null: the classifier's."""

    @model_validator(mode="after")
    def _settings_agree(self) -> IRNet:
        if self.background > self.foreground:
            raise ValueError("background must not be above foreground")
        if self.encoder is not None and self.weights == "classifier":
            raise ValueError("another encoder than the classifier's cannot have its weights")
        return self


class Saliency(Section):
    """How a classifier's explanations become pseudo-masks."""

    method: SaliencyMethod = "grad-cam"
    explain: Literal["probability", "logit"] = "probability"
    """Of grad-cam and integrated-gradients; the other methods explain the logit."""
    features: Literal["post-relu", "pre-relu"] = "post-relu"
    """Of grad-cam: after or before the classifier's last ReLU; before it only for DenseNets."""
    classes: Literal["findings", "observations"] = "findings"
    """What gets masks: CheXlocalize's ten findings, or CheXpert's observations but "No Finding"."""
    sign: Literal["positive", "absolute"] = "positive"
    """Of signed maps (all but grad-cam's): evidence for the finding, or for and against."""
    integrated: Integrated = Field(default_factory=Integrated)
    box: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Side of a box that maps are averaged over before anything is made of them, as a share of the
    frame's; 0: none. CheXlocalize takes 100 of some 2,800 pixels, 0.036, for Integrated Gradients
    and half of it for DeepLIFT."""
    refine: Literal["none", "irnet"] = "none"
    """irnet: maps are spread up to the image's boundaries, which `irnet` learns from them."""
    irnet: IRNet = Field(default_factory=IRNet)
    threshold: Literal["otsu", "mass", "tuned"] | Fraction = "otsu"
    """otsu per map; mass: the highest pixels that hold the share `mass` of a map's sum; tuned per
    finding on the validation images; or one number for all."""
    mass: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of `threshold: mass`."""
    smallest: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Regions of a mask that are smaller than this share of the frame are left out."""
    ignore: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Width of a band around each mask that says nothing, as a share of the frame's side: pixels
    between object and background that no segmenter learns from."""
    gate: Literal["label", "probability", "both", "none"] = "label"
    """What allows a mask: a positive label, a probability above `cutoff`, both, or nothing."""
    cutoff: Fraction = 0.5
    uncertain: Literal["unknown", "positive", "negative"] = "unknown"
    blank: Literal["negative", "unknown"] = "negative"
    """Whether an unmentioned finding is an empty mask or an unlabelled channel."""
    splits: list[Split] = Field(default=["train", "valid", "test"], min_length=1)
    ensemble: list[dict[str, Any]] = Field(default_factory=list)
    """Further classifiers whose maps and probabilities are averaged with the first's: each entry
    overrides fields of `classifier`, and may give a `seed`."""
    scale: Literal["none", "maximum", "mass"] = "none"
    """What each model's map is divided by before they are combined: nothing, its maximum or sum."""
    combine: Literal["mean", "median", "auroc"] = "mean"
    """How maps of an ensemble and of a classifier's checkpoints become one; auroc: a mean weighted
    by what each has above 0.5 on validation, finding by finding."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 elsewhere; maps are summed in float32 always."""
    maps: Literal["none", "model", "original"] = "none"
    """Whether maps are kept beside the masks, and where: as the model made them, or at each
    image's original size (tens of megabytes an image)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes by name, in the order of every table and array of pseudo-labels."""
        return FINDINGS if self.classes == "findings" else PLACED

    @property
    def pays_per_map(self) -> bool:
        """Whether every map takes passes of its own, as with all methods but Grad-CAM."""
        return self.method != "grad-cam"

    @property
    def full_size(self) -> bool:
        """Whether maps are as large as the frame: Grad-CAM's are cells of it."""
        return self.pays_per_map or self.box > 0

    @model_validator(mode="after")
    def _settings_agree(self) -> Saliency:
        if self.refine == "irnet" and self.classes != "findings":
            raise ValueError("irnet refines maps of the ten findings: set classes to findings")
        return self

    @field_validator("ensemble")
    @classmethod
    def _fields_of_classifier(cls, ensemble: list[dict[str, Any]]) -> list[dict[str, Any]]:
        _check_variants(
            ((str(number),), Classifier, {k: v for k, v in fields.items() if k != "seed"})
            for number, fields in enumerate(ensemble)
        )
        TypeAdapter(list[Seed]).validate_python([fields.get("seed", 0) for fields in ensemble])
        return ensemble


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
        _check_variants(_variant(name, value) for name, values in space.items() for value in values)
        return space


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
    """What the pre-training overrides of `segmenter`; it starts from random weights unless `init`
    is given here."""

    @field_validator("families")
    @classmethod
    def _fields_of_saliency(cls, families: dict[str, Family]) -> dict[str, Family]:
        for name in families:
            _check_name(name)
        _check_variants(((name,), Saliency, each.saliency) for name, each in families.items())
        return families

    @field_validator("segmenter")
    @classmethod
    def _fields_of_segmenter(cls, segmenter: dict[str, Any]) -> dict[str, Any]:
        _check_variants([((), Segmenter, segmenter)])
        return segmenter


class Task(Section):
    """Structures to segment, and images with masks of them."""

    phantom: Phantom | None = None
    collections: list[Collection] = Field(default_factory=list)
    classes: list[str] | None = Field(default=None, min_length=1)
    """Null: what a task of this name means (`lungs`, `heart`, `clavicles`, `organs`,
    `covid-infection`), else every structure that the images have masks of."""
    max_rejected: Fraction = 0.01

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
    """By name, as in `segmenter.init`; the last one's gains over the others are reported."""
    fractions: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0], min_length=1)
    """Shares of a task's training images that are learned from; smaller ones are among larger."""
    seeds: Seeds = Field(default_factory=lambda: [0])
    segmenter: dict[str, Any] = Field(default_factory=dict)
    """What fine-tuning overrides of `segmenter`; the same for all, so that all have one budget."""

    @field_validator("tasks", "initialisations")
    @classmethod
    def _names(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            _check_name(name)
        return named

    @field_validator("segmenter")
    @classmethod
    def _fields_of_segmenter(cls, segmenter: dict[str, Any]) -> dict[str, Any]:
        if "init" in segmenter:
            raise ValueError("init is what `initialisations` gives")
        _check_variants([((), Segmenter, segmenter)])
        return segmenter


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
            _check_name(name)
        _check_variants(((name,), Segmenter, fields) for name, fields in arms.items())
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
        fields = {"init": "random", **self.pretrain.segmenter}
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
        """Return the experiment with fields replaced (`swept_field`); in `augment` one by one."""
        value = self.model_dump()
        for key, new in fields.items():
            *sections, name = swept_field(key).split(".")
            place = value
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = {**place[name], **new} if name == "augment" else new
        return Experiment.model_validate(value)


SWEPT: dict[str, Any] = {"segmenter": Segmenter, "classifier": Classifier, "saliency": Saliency}
"""Sections whose fields a sweep can vary; the points of a sweep share all others."""
Variant = tuple[tuple[str, ...], type[Section], Mapping[str, Any]]


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


def _check_variants(variants: Iterable[Variant]) -> None:
    """Check (place, section, fields that override it); report every problem in its place."""
    problems: list[InitErrorDetails] = []
    for place, section, fields in variants:
        if "expert_validation" in fields:
            wrong = ValueError("set it in segmenter: all trainings share the held patients")
            problems.append(
                _problem("value_error", (*place, "expert_validation"), {"error": wrong})
            )
        try:
            section.model_validate(fields)
        except ValidationError as error:
            problems += [
                _problem(item["type"], (*place, *item["loc"]), item.get("ctx"), item["input"])
                for item in error.errors()
            ]
    if problems:
        raise ValidationError.from_exception_data("segmenter", problems)


def _problem(kind: str, place: tuple[str | int, ...], context: Any, given: Any = None) -> Any:
    return InitErrorDetails(type=kind, loc=place, input=given, ctx=context or {})
