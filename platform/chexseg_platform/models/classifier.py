"""Multi-label classifier: encoder, global average pooling, one linear layer.

So plain a head on purpose: Grad-CAM then has a closed form (saliency/gradcam.py) and the encoder
moves into a segmenter exactly. Feature maps are taken after the last ReLU, which matters for
DenseNet: segmentation_models_pytorch ends it at `norm5`, before the ReLU that its classifier has
always had, so `last` is that ReLU there and nothing elsewhere.

Labels are CheXpert's: 1 present, 0 absent, -1 uncertain, NaN not mentioned. What to do with the
last two is a policy (Irvin et al. 2019, section 3; the released CheXseg classifiers use the same
four).

Shapes: B images, S side, C features, h x w their map, K observations; three-class outputs are
ordered 3k + (0 negative, 1 uncertain, 2 positive).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexseg_platform.findings import OBSERVATIONS
from chexseg_platform.models import checkpoints
from chexseg_platform.models.encoder import build_encoder, out_channels
from chexseg_platform.models.preprocess import Preprocess

Policy = Literal["ignore", "zeros", "ones", "three-class"]
Blank = Literal["negative", "ignore"]
NEGATIVE, UNCERTAIN, POSITIVE = 0, 1, 2


class BadLabels(ValueError):
    """A label that is none of 1, 0, -1 and NaN."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """What decides a classifier's shape; stored in its checkpoint.

    Args:
        encoder: name, see models/encoder.py.
        in_channels: 1 or 3.
        output_stride: 32, 16 or 8: a saliency map has S / output_stride cells a side.
        classes: names of the outputs, in order.
        three_class: three logits a class, for the policy of that name.
    """

    encoder: str = "densenet121"
    in_channels: int = 1
    output_stride: int = 32
    classes: tuple[str, ...] = OBSERVATIONS
    three_class: bool = False

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return len(self.classes) * (3 if self.three_class else 1)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ClassifierSpec:
        """Read back what `asdict` gave through JSON."""
        try:
            return cls(**{**fields, "classes": tuple(fields["classes"])})
        except (TypeError, KeyError) as error:
            raise checkpoints.CorruptCheckpoint(
                f"{checkpoints.META} does not describe a classifier: {error}."
            ) from error


class Classifier(nn.Module):
    """Encoder + global average pooling + linear; see the module's text.

    Attributes:
        encoder: maps images to a list of feature maps.
        last: ReLU for DenseNet, else identity; Grad-CAM's target layer.
        head: Linear(C, outputs).
        spec: a ClassifierSpec.
    """

    def __init__(self, spec: ClassifierSpec, encoder: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = encoder
        self.last = nn.ReLU() if spec.encoder.startswith("densenet") else nn.Identity()
        self.head = nn.Linear(out_channels(encoder), spec.outputs)

    def forward(self, input_BCSS: Tensor) -> Tensor:
        """Normalised images -> logits (B, outputs)."""
        return self.from_features(self.features(input_BCSS))

    def features(self, input_BCSS: Tensor) -> Tensor:
        """The last feature map (B, C, h, w), after the final ReLU."""
        features_BChw: Tensor = self.last(self.encoder(input_BCSS)[-1])
        return features_BChw

    def from_features(self, features_BChw: Tensor) -> Tensor:
        """Feature map -> logits (B, outputs)."""
        logits: Tensor = self.head(features_BChw.mean(dim=(2, 3)))
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B, outputs) -> probabilities (B, K), float32; see `to_probabilities`."""
        return to_probabilities(logits, self.spec.three_class)


def build_classifier(
    spec: ClassifierSpec,
    *,
    weights: str | Path | None = None,
    cache: Path | None = None,
) -> Classifier:
    """Build a classifier; `weights` and `cache` as in `build_encoder`, the head is random."""
    encoder = build_encoder(
        spec.encoder,
        weights=weights,
        in_channels=spec.in_channels,
        output_stride=spec.output_stride,
        cache=cache,
    )
    return Classifier(spec, encoder)


def to_probabilities(logits: Tensor, three_class: bool) -> Tensor:
    """Probability of each observation: sigmoid, or softmax over (positive, negative) only."""
    return torch.sigmoid(to_log_odds(logits, three_class))


def to_log_odds(logits: Tensor, three_class: bool) -> Tensor:
    """Log-odds of `to_probabilities`, float32."""
    logits = logits.float()
    if three_class:
        z_BK3 = logits.unflatten(1, (-1, 3))
        # A softmax over two logits is the sigmoid of their difference.
        return z_BK3[..., POSITIVE] - z_BK3[..., NEGATIVE]
    return logits


def check_labels(labels_BK: Tensor, classes: tuple[str, ...] = OBSERVATIONS) -> None:
    """BadLabels, naming value, row and class, unless every label is 1, 0, -1 or NaN."""
    fine = (labels_BK == 1) | (labels_BK == 0) | (labels_BK == -1) | labels_BK.isnan()
    if not bool(fine.all()):
        row, column = (int(i) for i in (~fine).nonzero()[0])
        raise BadLabels(
            f"Label {labels_BK[row, column].item():g} of {classes[column]!r} in row {row} is none "
            "of 1 (present), 0 (absent), -1 (uncertain) and blank: correct the table."
        )


def targets(
    labels_BK: Tensor, policy: Policy = "ignore", blank: Blank = "negative"
) -> tuple[Tensor, Tensor]:
    """Turn labels into what a loss needs.

    Args:
        labels_BK: floating, 1, 0, -1 (uncertain) or NaN (not mentioned).
        policy: for -1: leave out of the loss ("ignore"), take as 0 ("zeros") or 1 ("ones"), or
            make it a class of its own ("three-class").
        blank: for NaN: "negative" as both papers, or "ignore".

    Returns:
        target (B, K): float 0 or 1, or int64 0, 1, 2 for three-class; and weight (B, K), float,
        1 where the entry counts and else 0.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"Unknown policy {policy!r}; choose one of {', '.join(get_args(Policy))}.")
    if blank not in get_args(Blank):
        raise ValueError(f"Unknown blank {blank!r}; choose one of {', '.join(get_args(Blank))}.")
    is_blank, uncertain = labels_BK.isnan(), labels_BK == -1
    weight = torch.ones_like(labels_BK)
    if blank == "ignore":
        weight = weight.masked_fill(is_blank, 0.0)
    filled = labels_BK.masked_fill(is_blank, 0.0)
    if policy == "three-class":
        index = (filled == 1).long() * POSITIVE
        return index.masked_fill(uncertain, UNCERTAIN), weight
    if policy == "ignore":
        weight = weight.masked_fill(uncertain, 0.0)
    return filled.masked_fill(uncertain, 1.0 if policy == "ones" else 0.0), weight


def classification_loss(
    logits: Tensor, labels_BK: Tensor, policy: Policy = "ignore", blank: Blank = "negative"
) -> Tensor:
    """Mean cross-entropy over the entries that count: binary, or over three classes.

    Args:
        logits: (B, K), or (B, 3K) for three-class.
        labels_BK: as in `targets`.

    Returns:
        A scalar; 0 (with zero gradient) where no entry counts.
    """
    target, weight = targets(labels_BK, policy, blank)
    logits = logits.float()
    if policy == "three-class":
        z_B3K = logits.unflatten(1, (-1, 3)).transpose(1, 2)
        each = F.cross_entropy(z_B3K, target, reduction="none")
    else:
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * weight).sum() / weight.sum().clamp(min=1.0)


def dump_classifier(
    model: Classifier, preprocess: Preprocess, extra: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The two files of a classifier checkpoint; `extra` (JSON-ready) is kept under "extra"."""
    return checkpoints.dumps(model.state_dict(), classifier_meta(model.spec, preprocess, extra))


def classifier_meta(
    spec: ClassifierSpec, preprocess: Preprocess, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything needed to build and feed the model again, JSON-ready."""
    return checkpoints.describe("classifier", asdict(spec), preprocess.to_dict(), extra)


def load_classifier(files: Mapping[str, bytes]) -> tuple[Classifier, dict[str, Any]]:
    """Rebuild a classifier, in eval mode on the CPU, and its meta.

    `Preprocess.from_dict(meta["preprocess"])` is the normalisation it was trained with.

    Raises:
        CorruptCheckpoint, WrongArchitecture.
    """
    return checkpoints.rebuild(
        files, "classifier", lambda spec: build_classifier(ClassifierSpec.from_dict(spec))
    )
