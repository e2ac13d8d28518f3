"""From a classifier to pseudo-labels: the section `saliency`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator, model_validator

from chexseg_platform.config.base import (
    Fraction,
    Positive,
    PositiveFloat,
    Section,
    Seed,
    Split,
    check_variants,
)
from chexseg_platform.config.training import Classifier, Fit
from chexseg_platform.findings import FINDINGS, PLACED


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
    pool: Literal["none", "superpixels", "edges"] = "none"
    """How maps are fitted to the image: each superpixel gets its mean (SLIC, Achanta et al. 2012);
    edges: smoothed, but not across the image's edges (a guided filter, He et al. 2013)."""
    regions: Positive = 300
    """Of `pool: superpixels`: about how many an image gets."""
    refine: Literal["none", "irnet"] = "none"
    """irnet: maps are spread up to the image's boundaries, which `irnet` learns from them."""
    irnet: IRNet = Field(default_factory=IRNet)
    threshold: Literal["otsu", "mass", "tuned"] | Fraction = "otsu"
    """otsu per map; mass: the highest pixels that hold the share `mass` of a map's sum above its
    lowest value (on 256 levels, as every threshold); tuned per finding on the validation images; or
    one number for all."""
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
    completeness: PositiveFloat | None = None
    """Of integrated-gradients: maps weigh the less the larger their completeness error is, and
    nothing from this error on; where no model's map is left the label is unknown."""
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
        return self.pays_per_map or self.box > 0 or self.pool != "none"

    @model_validator(mode="after")
    def _settings_agree(self) -> Saliency:
        if self.refine == "irnet" and self.classes != "findings":
            raise ValueError("irnet refines maps of the ten findings: set classes to findings")
        return self

    @field_validator("ensemble")
    @classmethod
    def _fields_of_classifier(cls, ensemble: list[dict[str, Any]]) -> list[dict[str, Any]]:
        check_variants(
            ((str(number),), Classifier, {k: v for k, v in fields.items() if k != "seed"})
            for number, fields in enumerate(ensemble)
        )
        TypeAdapter(list[Seed]).validate_python([fields.get("seed", 0) for fields in ensemble])
        return ensemble
