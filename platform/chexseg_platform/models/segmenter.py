"""Segmenters of segmentation_models_pytorch by name, and where their weights start from.

The models are that library's own, unwrapped: multi-label logits (B, K, S, S), one channel a
finding. Initial weights: random; an ImageNet encoder; a classifier's encoder, copied exactly
(CheXseg's choice); or a whole other segmenter, encoder and decoder (DoLL's).

Two traps are dealt with here. Branches that pool a map to one pixel (DeepLabV3+, PSPNet, PAN,
UPerNet) hand batch normalisation a single value a channel when a batch holds one image, which
torch refuses while training: `tolerate_single_values`. And with small inputs the dilation rates
12, 24 and 36 of DeepLabV3+ are wider than its whole map (6 x 6 at 96 pixels and stride 16), which
turns three of its branches into 1 x 1 convolutions: pass
`options={"decoder_atrous_rates": (2, 4, 6)}` there.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexseg_platform.findings import FINDINGS
from chexseg_platform.models import checkpoints
from chexseg_platform.models.encoder import UnsuitableEncoder, check_encoder
from chexseg_platform.models.preprocess import Preprocess

_CLASSES: dict[str, type[nn.Module]] = smp.MODEL_ARCHITECTURES_MAPPING
ARCHITECTURES: tuple[str, ...] = tuple(cls.__name__ for cls in _CLASSES.values())
"""Names of the architectures, as segmentation_models_pytorch spells its classes."""

_OURS = {"self", "encoder_name", "encoder_weights", "in_channels", "classes", "kwargs"}
_OURS |= {"activation", "aux_params", "encoder_output_stride"}


class UnknownArchitecture(ValueError):
    """A name that is no architecture of segmentation_models_pytorch."""


class UnknownOption(ValueError):
    """An option that the architecture does not have."""


class UnsuitableStride(ValueError):
    """An output stride for an architecture that sets its own."""


class UnsuitableSize(ValueError):
    """A side of images that a segmenter does not take."""


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec:
    """What decides a segmenter's shape; stored in its checkpoint.

    Args:
        architecture: such as "DeepLabV3Plus", "Unet", "FPN"; case does not matter, and
            the papers' spellings ("DeepLabV3+", "U-Net++") are understood.
        encoder: name, see models/encoder.py.
        in_channels: 1 or 3.
        classes: names of the output channels, in order.
        output_stride: of the encoder, only for DeepLabV3, DeepLabV3Plus (8, 16) and PAN (16, 32);
            None is the architecture's default.
        options: further arguments of the architecture, such as decoder_channels; JSON-ready.
    """

    architecture: str = "DeepLabV3Plus"
    encoder: str = "resnet18"
    in_channels: int = 1
    classes: tuple[str, ...] = FINDINGS
    output_stride: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """What decides whether weights fit, in words."""
        options = f" with options {dict(self.options)}" if self.options else ""
        return f"{self.architecture} on {self.encoder}{options}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "options": dict(self.options)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SegmenterSpec:
        """Read back what `to_dict` gave through JSON."""
        try:
            return cls(**{**fields, "classes": tuple(fields["classes"])})
        except (TypeError, KeyError) as error:
            raise checkpoints.CorruptCheckpoint(
                f"{checkpoints.META} does not describe a segmenter: {error}."
            ) from error


def build_segmenter(spec: SegmenterSpec) -> nn.Module:
    """Build a segmenter with random weights: (B, in_channels, S, S) -> logits (B, K, S, S).

    Raises:
        UnknownArchitecture, UnknownEncoder: with the nearest names.
        UnsuitableEncoder: where encoder and architecture do not go together.
        UnknownOption, UnsuitableStride: for what the architecture does not have.
    """
    cls = _architecture(spec.architecture)
    check_encoder(spec.encoder)
    if not spec.classes:
        raise ValueError("A segmenter needs at least one class.")
    arguments = _arguments(cls, spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "timm-" names are deprecated but still valid
        try:
            model = cls(**arguments)
        except (ValueError, NotImplementedError, TypeError, KeyError, AssertionError) as error:
            raise UnsuitableEncoder(
                f"{cls.__name__} cannot be built on {spec.encoder} this way: {error}; try another "
                "encoder (resnet18 fits all but DPT) or other options."
            ) from error
    tolerate_single_values(model)
    return model


def check_size(model: nn.Module, in_channels: int, size: int) -> None:
    """UnsuitableSize, saying what does, unless the segmenter takes square images of this side."""
    step = 1
    if getattr(model, "requires_divisible_input_shape", True):
        step = int(model.encoder.output_stride)  # type: ignore[union-attr, arg-type]
    if size % step or size < step:
        below, above = size // step * step, (size // step + 1) * step
        fits = f"{below} or {above}" if below else f"{above}"
        raise UnsuitableSize(
            f"This segmenter takes sides divisible by {step}: not {size} but {fits}."
        )
    training = model.training
    try:
        # Some decoders pool further than they say (PAN: 8 times), so only a forward tells.
        with torch.no_grad():
            model.eval()(torch.zeros(1, in_channels, size, size))
    except RuntimeError as error:
        raise UnsuitableSize(
            f"Images of side {size} are too small for this segmenter ({error}): choose larger "
            "ones, a smaller output stride or another architecture."
        ) from error
    finally:
        model.train(training)


def load_encoder(segmenter: nn.Module, classifier_state: checkpoints.State) -> None:
    """Copy a classifier's encoder into a segmenter, every tensor exactly.

    The classifier's head has no place here and is left out; strides may differ, for dilation
    changes no weight.

    Raises:
        WrongArchitecture: naming the first tensor that does not fit.
    """
    encoder = checkpoints.with_prefix(classifier_state, "encoder.")
    if not encoder:
        raise checkpoints.WrongArchitecture(
            "This checkpoint has no encoder to start from: name a classifier checkpoint."
        )
    checkpoints.load_exactly(encoder_of(segmenter), encoder, "The classifier's encoder")


def load_segmenter_weights(segmenter: nn.Module, state: checkpoints.State, *, head: bool) -> None:
    """Start from another segmenter: encoder and decoder exactly.

    Args:
        head: whether its channels mean the same classes, and are taken, too; else they stay random.

    Raises:
        WrongArchitecture: naming the first tensor that does not fit.
    """
    fitted = dict(state)
    if not head:
        random = segmenter.state_dict()
        fitted = {name: value for name, value in state.items() if not _in_head(name)}
        fitted |= {name: value for name, value in random.items() if _in_head(name)}
    checkpoints.load_exactly(segmenter, fitted, "The segmenter checkpoint")


def _in_head(name: str) -> bool:
    return name.startswith("segmentation_head.")


def dump_segmenter(
    model: nn.Module,
    spec: SegmenterSpec,
    preprocess: Preprocess,
    extra: Mapping[str, Any] | None = None,
    *,
    state: checkpoints.State | None = None,
) -> dict[str, bytes]:
    """The two files of a segmenter checkpoint.

    Args:
        extra: JSON-ready: thresholds, epoch, ...
        state: of the plain segmenter, where the model's own is another (`training.adapting`).
    """
    meta = segmenter_meta(spec, preprocess, extra)
    return checkpoints.dumps(model.state_dict() if state is None else state, meta)


def segmenter_meta(
    spec: SegmenterSpec, preprocess: Preprocess, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything needed to build and feed the model again, JSON-ready."""
    return checkpoints.describe("segmenter", spec.to_dict(), preprocess.to_dict(), extra)


def load_segmenter(files: Mapping[str, bytes]) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a segmenter, in eval mode on the CPU, and its meta.

    `SegmenterSpec.from_dict(meta["spec"])` and `Preprocess.from_dict(meta["preprocess"])` are
    what it was built and trained with.

    Raises:
        CorruptCheckpoint, WrongArchitecture.
    """
    return checkpoints.rebuild(
        files, "segmenter", lambda spec: build_segmenter(SegmenterSpec.from_dict(spec))
    )


class TolerantBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that, given one value a channel while training, uses running stats.

    One value has no variance; torch raises an error there. Names in the state are unchanged.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def tolerate_single_values(model: nn.Module) -> None:
    """Replace every plain BatchNorm2d, in place, by one that takes a single value a channel."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _tolerant(child))


def _tolerant(norm: nn.BatchNorm2d) -> TolerantBatchNorm2d:
    twin = TolerantBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    twin.load_state_dict(norm.state_dict())
    return twin.train(norm.training)


def _architecture(name: str) -> type[nn.Module]:
    key = name.lower().replace("+", "plus").replace("-", "")
    if key in _CLASSES:
        return _CLASSES[key]
    near = get_close_matches(key, _CLASSES, n=1, cutoff=0.4)
    hint = f"did you mean {_CLASSES[near[0]].__name__}?" if near else ", ".join(ARCHITECTURES)
    raise UnknownArchitecture(f"{name!r} is no architecture of segmentation_models_pytorch: {hint}")


def _arguments(cls: type[nn.Module], spec: SegmenterSpec) -> dict[str, Any]:
    accepted = set(inspect.signature(cls.__init__).parameters)
    for name in spec.options:
        if name not in accepted - _OURS:
            raise UnknownOption(
                f"{cls.__name__} has no option {name!r}; it has "
                f"{', '.join(sorted(accepted - _OURS))}."
            )
    arguments = {
        "encoder_name": spec.encoder,
        "encoder_weights": None,
        "in_channels": spec.in_channels,
        "classes": len(spec.classes),
        **spec.options,
    }
    if spec.output_stride is not None:
        if "encoder_output_stride" not in accepted:
            raise UnsuitableStride(
                f"{cls.__name__} sets its own output stride: leave it out, or choose DeepLabV3, "
                "DeepLabV3Plus or PAN."
            )
        arguments["encoder_output_stride"] = spec.output_stride
    return arguments


def encoder_of(segmenter: nn.Module) -> nn.Module:
    """Return a segmenter's encoder."""
    encoder = segmenter.encoder
    assert isinstance(encoder, nn.Module)
    return encoder
