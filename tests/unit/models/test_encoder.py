"""Encoders by name: strides, weights from a folder, errors that say what to do."""

from pathlib import Path

import pytest
import torch
from chexseg_platform.models import checkpoints
from chexseg_platform.models.encoder import (
    UnknownEncoder,
    UnsuitableEncoder,
    WeightsUnavailable,
    build_encoder,
    check_encoder,
    fetch_weights,
    load_weights,
    out_channels,
)
from chexseg_platform.models.first_weights import NoWeights
from huggingface_hub import constants


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "tu-mobilenetv3_small_100"])
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_stride_is_what_was_asked(name: str, stride: int) -> None:
    encoder = build_encoder(name, in_channels=1, output_stride=stride).eval()
    with torch.no_grad():
        last = encoder(torch.zeros(1, 1, 64, 64))[-1]
    assert last.shape == (1, out_channels(encoder), 64 // stride, 64 // stride)


def test_stride_changes_no_weight() -> None:
    plain = build_encoder("resnet18").state_dict()
    dilated = build_encoder("resnet18", output_stride=8).state_dict()
    assert checkpoints.first_mismatch(plain, dilated) is None


def test_pooling_encoders_say_that_they_cannot_be_dilated() -> None:
    with pytest.raises(UnsuitableEncoder, match=r"densenet121 cannot keep.*stride 8.*resnet18"):
        build_encoder("densenet121", output_stride=8)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownEncoder, match="resnet18"):
        check_encoder("resnet-18")
    with pytest.raises(UnknownEncoder, match="densenet121"):
        check_encoder("DenseNet121")
    with pytest.raises(UnknownEncoder, match="tu-mobilenetv3_small_100"):
        check_encoder("tu-mobilenetv3_smal_100")


def test_bad_stride() -> None:
    with pytest.raises(ValueError, match="32, 16 or 8"):
        build_encoder("resnet18", output_stride=4)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    encoder = build_encoder("resnet18", in_channels=3)
    meta = {"kind": "encoder", "encoder": "resnet18"}
    checkpoints.save(tmp_path / "resnet18", encoder.state_dict(), meta)
    return tmp_path


def test_colour_weights_give_one_channel_the_same_features(weights: Path) -> None:
    colour = build_encoder("resnet18", weights="imagenet", in_channels=3, cache=weights).eval()
    grey = build_encoder("resnet18", weights=weights / "resnet18", in_channels=1).eval()
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            grey(image)[-1], colour(image.expand(-1, 3, -1, -1))[-1], rtol=1e-4, atol=1e-5
        )


def test_weights_of_another_encoder_are_refused(weights: Path) -> None:
    with pytest.raises(checkpoints.WrongArchitecture, match=r"resnet18.*layer"):
        load_weights(build_encoder("resnet34"), weights / "resnet18")


def test_missing_weights_say_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="fetch them first"):
        build_encoder("resnet18", weights="imagenet", cache=tmp_path)
    with pytest.raises(NoWeights, match="no folder of a model"):
        build_encoder("resnet18", weights=tmp_path / "nowhere")


def test_fetching_reads_what_is_there_and_else_needs_a_network(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_weights("resnet18", weights) == weights / "resnet18"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(weights / "empty"))
    with pytest.raises(WeightsUnavailable, match="network"):
        fetch_weights("timm-skresnet34", weights)
    assert not (weights / "timm-skresnet34").exists()
