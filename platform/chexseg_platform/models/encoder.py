"""The encoder that classifier and segmenter share, by segmentation_models_pytorch's names.

One vocabulary for both is what lets a classifier's weights move into a segmenter exactly. Weights
come from a local folder and never from the network: workers have none in a hospital, and hundreds
of them asking at once are refused. `fetch_weights` is the one function that downloads; it runs on
the driver, before any work.
"""

from __future__ import annotations

import warnings
from difflib import get_close_matches
from pathlib import Path

import timm
import torch
from segmentation_models_pytorch import encoders as smp_encoders
from torch import Tensor, nn

from chexseg_platform.models import checkpoints

STRIDES = (32, 16, 8)
DILATABLE = "resnet18, resnet50, se_resnet50, mobilenet_v2, efficientnet-b0 or mit_b0"


class UnknownEncoder(ValueError):
    """A name that segmentation_models_pytorch and timm do not know."""


class UnsuitableEncoder(ValueError):
    """An encoder that cannot do what is asked of it, such as keep a small output stride."""


class WeightsUnavailable(ValueError):
    """Pretrained weights that are not in the local folder, or could not be fetched."""


def check_encoder(name: str) -> None:
    """UnknownEncoder, with the nearest known names, unless the encoder exists."""
    if name in smp_encoders.encoders or _is_timm(name):
        return
    known = [*smp_encoders.encoders, *(f"tu-{model}" for model in timm.list_models())]
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "resnet18 is the default."
    raise UnknownEncoder(
        f"{name!r} is no encoder of segmentation_models_pytorch (nor 'tu-' + a timm model): {hint}"
    )


def build_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    in_channels: int = 1,
    output_stride: int = 32,
    cache: Path | None = None,
) -> nn.Module:
    """Build an encoder that maps (B, in_channels, S, S) to a list of feature maps, last deepest.

    Args:
        name: such as "densenet121", "resnet18", "mit_b0" or "tu-<timm model>".
        weights: None for random; a folder that `fetch_weights` wrote; or "imagenet", which reads
            the folder `cache / name`.
        in_channels: 1 or 3. Three-channel weights are summed into one channel.
        output_stride: 32, or 16 or 8, where strides of the last stages become dilations; the
            weights stay the same, so they move between models of different strides.
        cache: the folder of `fetch_weights`, for weights="imagenet".

    Raises:
        UnknownEncoder, UnsuitableEncoder, WeightsUnavailable, CorruptCheckpoint,
        WrongArchitecture, ValueError.
    """
    check_encoder(name)
    if output_stride not in STRIDES:
        raise ValueError(f"output_stride is 32, 16 or 8, not {output_stride}.")
    encoder = _smp_encoder(name, in_channels, output_stride)
    if output_stride != 32:
        _check_stride(encoder, name, in_channels, output_stride)
    folder = _weights_folder(name, weights, cache)
    if folder is not None:
        load_weights(encoder, folder)
    return encoder


def fetch_weights(name: str, cache: Path) -> Path:
    """Download an encoder's ImageNet weights to `cache / name`, through the official loader.

    Does nothing where they are already there. For the driver only.

    Raises:
        UnknownEncoder: for a name that is none.
        WeightsUnavailable: where there are none, or the network gives none.
    """
    check_encoder(name)
    folder = cache / name
    if (folder / checkpoints.META).exists():
        checkpoints.load(folder)
        return folder
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoder = smp_encoders.get_encoder(name, in_channels=3, weights="imagenet")
    except KeyError as error:
        raise WeightsUnavailable(f"There are no ImageNet weights for {name!r}: {error}.") from error
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailable(
            f"ImageNet weights of {name!r} could not be fetched: run this once with network "
            f"access and copy {folder} here, or start from random weights. ({error})"
        ) from error
    meta = {"kind": "encoder", "encoder": name, "weights": "imagenet", "in_channels": 3}
    checkpoints.save(folder, encoder.state_dict(), meta)
    return folder


def load_weights(encoder: nn.Module, folder: str | Path) -> None:
    """Load encoder weights from a folder of `fetch_weights` (or of `checkpoints.save`).

    Weights of three input channels enter a one-channel encoder as their sum, which gives the
    same output for a grey image as three equal channels would.

    Raises:
        CorruptCheckpoint, WrongArchitecture: as `checkpoints.load` and `load_exactly`.
    """
    state, meta = checkpoints.load(folder)
    checkpoints.require_kind(meta, "encoder")
    fitted = _sum_first_channels(state, encoder.state_dict())
    checkpoints.load_exactly(encoder, fitted, f"{folder} ({meta.get('encoder')})")


def out_channels(encoder: nn.Module) -> int:
    """Channels of an encoder's last feature map."""
    return int(encoder.out_channels[-1])  # type: ignore[index]


def _is_timm(name: str) -> bool:
    return name.startswith("tu-") and timm.is_model(name.removeprefix("tu-"))


def _smp_encoder(name: str, in_channels: int, output_stride: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "timm-" names are deprecated but still valid
        try:
            encoder: nn.Module = smp_encoders.get_encoder(
                name, in_channels=in_channels, weights=None, output_stride=output_stride
            )
        except (ValueError, NotImplementedError, TypeError) as error:
            if output_stride == 32:
                raise UnsuitableEncoder(f"{name} cannot be an encoder here: {error}") from error
            raise _not_dilatable(name, output_stride) from error
    return encoder


def _check_stride(encoder: nn.Module, name: str, in_channels: int, output_stride: int) -> None:
    # Some encoders take the option and ignore it; a 64-pixel forward tells.
    encoder.eval()
    with torch.no_grad():
        side = encoder(torch.zeros(1, in_channels, 64, 64))[-1].shape[-1]
    encoder.train()
    if side != 64 // output_stride:
        raise _not_dilatable(name, output_stride)


def _not_dilatable(name: str, output_stride: int) -> UnsuitableEncoder:
    return UnsuitableEncoder(
        f"{name} cannot keep its feature maps at stride {output_stride}, for it downsamples by "
        f"pooling: use output_stride 32, or an encoder such as {DILATABLE}."
    )


def _weights_folder(name: str, weights: str | Path | None, cache: Path | None) -> str | Path | None:
    if weights is None or weights != "imagenet":
        return weights
    if cache is None or not (cache / name / checkpoints.META).exists():
        where = f"in {cache}" if cache else "without a weights folder"
        raise WeightsUnavailable(
            f"No ImageNet weights of {name!r} {where}: fetch them first, on a machine with "
            "network access, or start from random weights."
        )
    return cache / name


def _sum_first_channels(state: checkpoints.State, wanted: checkpoints.State) -> dict[str, Tensor]:
    def fit(name: str, tensor: Tensor) -> Tensor:
        mine = wanted.get(name)
        if mine is None or tensor.dim() != 4 or mine.dim() != 4:
            return tensor
        to_grey = tensor.shape[1] == 3 and mine.shape[1] == 1 and tensor.shape[0] == mine.shape[0]
        return tensor.sum(dim=1, keepdim=True) if to_grey else tensor

    return {name: fit(name, tensor) for name, tensor in state.items()}
