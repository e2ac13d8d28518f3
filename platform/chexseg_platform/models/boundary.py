"""IRNet's network: where an image's boundaries are, from a frozen encoder's feature maps.

Two branches see the feature maps of all strides (Ahn et al. 2019, section 4): one gives the
strength of a boundary at each cell of a stride-4 grid, for a random walk of saliency maps
(saliency/walk.py); the other each cell's displacement to the centre of what it belongs to. The
encoder is the classifier's, or any other, and never changes: not its weights, and, being in eval
mode always, not its running statistics. So all that a training costs is its forward pass.

Shapes: B images, C channels, S side, h x w the grid, S / 4 rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexseg_platform.models import checkpoints
from chexseg_platform.models.encoder import build_encoder
from chexseg_platform.models.preprocess import Preprocess

STRIDE = 4
"""Pixels a side of a cell of the grid."""
BOUNDARY_WIDTH, DISPLACEMENT_WIDTH, MIXED_WIDTH = 32, 64, 128
CHANNELS_PER_GROUP = 8
MOMENTUM = 0.1


@dataclass(frozen=True, kw_only=True)
class BoundarySpec:
    """What decides a boundary network's shape; stored in its checkpoint.

    Args:
        encoder: name, see models/encoder.py.
        in_channels: 1 or 3.
        output_stride: of the encoder: 32, 16 or 8.
    """

    encoder: str = "densenet121"
    in_channels: int = 1
    output_stride: int = 32

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> BoundarySpec:
        """Read back what `asdict` gave through JSON."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise checkpoints.CorruptCheckpoint(
                f"{checkpoints.META} does not describe a boundary network: {error}."
            ) from error


class MeanShift(nn.Module):
    """In eval mode, take away the mean displacement that training has seen.

    Only differences of displacements are learned, so all may be off by one constant; over many
    images displacements to centres average to nothing. A running mean: the plain one of the
    first batches, then one that forgets.
    """

    mean: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, value_BChw: Tensor) -> Tensor:
        if not self.training:
            return value_BChw - self.mean[:, None, None]
        self.batches += 1
        share = self.batches.float().reciprocal().clamp(min=MOMENTUM)
        self.mean.lerp_(value_BChw.detach().float().mean(dim=(0, 2, 3)), share)
        return value_BChw


class BoundaryNetwork(nn.Module):
    """Frozen encoder, boundary branch, displacement branch; see the module's text.

    Attributes:
        encoder: maps images to a list of feature maps; always in eval mode, without gradient.
        spec: a BoundarySpec.
    """

    def __init__(self, spec: BoundarySpec, encoder: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = encoder.eval().requires_grad_(False)
        channels = [number for number in encoder.out_channels[1:] if number]  # type: ignore[index]
        self.boundary = nn.ModuleList(_branch(number, BOUNDARY_WIDTH) for number in channels)
        self.boundary_head = nn.Conv2d(BOUNDARY_WIDTH * len(channels), 1, 1)
        self.displacement = nn.ModuleList(
            _branch(number, DISPLACEMENT_WIDTH) for number in channels
        )
        self.displacement_head = nn.Sequential(
            _branch(DISPLACEMENT_WIDTH * len(channels), MIXED_WIDTH),
            nn.ReLU(),
            nn.Conv2d(MIXED_WIDTH, 2, 1, bias=False),
            MeanShift(2),
        )

    def train(self, mode: bool = True) -> BoundaryNetwork:
        """Set the branches' mode; the encoder stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, input_BCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images -> boundary logits (B, 1, h, w), displacements (B, 2, h, w).

        Displacements are (down, right) in cells.
        """
        size = tuple(-(-side // STRIDE) for side in input_BCSS.shape[2:])
        features = self._features(input_BCSS, size)
        edge = _stacked(self.boundary, features, size)
        displaced = _stacked(self.displacement, features, size)
        return self.boundary_head(edge), self.displacement_head(displaced)

    def boundaries(self, input_BCSS: Tensor) -> Tensor:
        """Normalised images -> strength of the boundary at each cell, 0 to 1: float32 (B, h, w)."""
        size = tuple(-(-side // STRIDE) for side in input_BCSS.shape[2:])
        edge = _stacked(self.boundary, self._features(input_BCSS, size), size)
        return self.boundary_head(edge)[:, 0].float().sigmoid()

    @torch.no_grad()
    def _features(self, input_BCSS: Tensor, size: tuple[int, ...]) -> list[Tensor]:
        """Feature maps of strides 2 to 32; finer ones are brought to the grid at once."""
        # Some encoders have no map of stride 2 and give one without channels.
        maps = [map_ for map_ in self.encoder(input_BCSS)[1:] if map_.shape[1]]
        return [_resized(map_, size) if map_.shape[-1] > size[-1] else map_ for map_ in maps]


def build_boundary(
    spec: BoundarySpec, *, weights: str | Path | None = None, cache: Path | None = None
) -> BoundaryNetwork:
    """Build a boundary network; `weights` and `cache` as in `build_encoder`, the rest is random."""
    encoder = build_encoder(
        spec.encoder,
        weights=weights,
        in_channels=spec.in_channels,
        output_stride=spec.output_stride,
        cache=cache,
    )
    return BoundaryNetwork(spec, encoder)


def dump_boundary(
    model: BoundaryNetwork, preprocess: Preprocess, extra: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The two files of a checkpoint, encoder included; `extra` (JSON-ready) is kept as "extra"."""
    meta = checkpoints.describe("boundary", asdict(model.spec), preprocess.to_dict(), extra)
    return checkpoints.dumps(model.state_dict(), meta)


def load_boundary(files: Mapping[str, bytes]) -> tuple[BoundaryNetwork, dict[str, Any]]:
    """Rebuild a boundary network, in eval mode on the CPU, and its meta.

    `Preprocess.from_dict(meta["preprocess"])` is the normalisation it was trained with.

    Raises:
        CorruptCheckpoint, WrongArchitecture.
    """
    return checkpoints.rebuild(
        files, "boundary", lambda spec: build_boundary(BoundarySpec.from_dict(spec))
    )


def _branch(channels: int, width: int) -> nn.Sequential:
    # Without a bias: group normalisation has one.
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(width // CHANNELS_PER_GROUP, width)
    )


def _stacked(branches: nn.ModuleList, features: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """Run each feature map through its branch, bring all to one size, and stack them."""
    pairs = zip(branches, features, strict=True)
    return torch.cat([F.relu(_resized(branch(map_), size)) for branch, map_ in pairs], dim=1)


def _resized(value_BChw: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(value_BChw.shape[2:]) == size:
        return value_BChw
    return F.interpolate(value_BChw, size=size, mode="bilinear", align_corners=False)
