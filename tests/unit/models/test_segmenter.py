"""Segmenters by name, their starts, and their traps."""

import pytest
import torch
from chexseg_platform.models import checkpoints
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier
from chexseg_platform.models.encoder import UnknownEncoder, UnsuitableEncoder
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.models.segmenter import (
    ARCHITECTURES,
    SegmenterSpec,
    TolerantBatchNorm2d,
    UnknownArchitecture,
    build_segmenter,
    check_size,
    dump_segmenter,
    load_encoder,
    load_segmenter,
    load_segmenter_weights,
)
from torch import nn

SMALL = "tu-mobilenetv3_small_100"


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "DPT"])
def test_every_architecture_trains_on_one_small_image(architecture: str) -> None:
    model = build_segmenter(SegmenterSpec(architecture=architecture, classes=("a", "b", "c")))
    size = 128 if architecture == "PAN" else 64
    logits = model.train()(torch.randn(1, 1, size, size))
    assert logits.shape == (1, 3, size, size)
    logits.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("encoder", ["resnet18", SMALL, "mit_b0"])
def test_small_inputs(size: int, encoder: str) -> None:
    model = build_segmenter(SegmenterSpec(encoder=encoder, in_channels=3)).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 10, size, size)


def test_tolerant_norm_equals_torch_where_torch_works() -> None:
    torch.manual_seed(0)
    ours, theirs = TolerantBatchNorm2d(4), nn.BatchNorm2d(4)
    batch = torch.randn(3, 4, 2, 2)
    assert torch.equal(ours(batch), theirs(batch))
    assert torch.equal(ours.running_var, theirs.running_var)  # type: ignore[arg-type]
    single = torch.randn(1, 4, 1, 1)
    assert torch.equal(ours(single), theirs.eval()(single))
    assert torch.equal(ours.running_mean, theirs.running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoder", ["resnet18", "densenet121", "mobilenet_v2"])
@pytest.mark.parametrize("architecture", ["DeepLabV3Plus", "Unet"])
def test_classifier_encoder_moves_exactly(encoder: str, architecture: str) -> None:
    if encoder == "densenet121" and architecture == "DeepLabV3Plus":
        with pytest.raises(UnsuitableEncoder, match="densenet121"):
            build_segmenter(SegmenterSpec(architecture=architecture, encoder=encoder))
        return
    classifier = build_classifier(ClassifierSpec(encoder=encoder))
    segmenter = build_segmenter(SegmenterSpec(architecture=architecture, encoder=encoder))
    state = classifier.state_dict()
    load_encoder(segmenter, state)
    moved = segmenter.state_dict()
    names = [name for name in state if name.startswith("encoder.")]
    assert names
    assert set(names) == {name for name in moved if name.startswith("encoder.")}
    assert all(torch.equal(moved[name], state[name]) for name in names)


def test_wrong_classifier_is_refused_and_named() -> None:
    segmenter = build_segmenter(SegmenterSpec(encoder="resnet18"))
    colour = build_classifier(ClassifierSpec(encoder="resnet18", in_channels=3)).state_dict()
    with pytest.raises(checkpoints.WrongArchitecture, match=r"conv1\.weight.*\[64, 3, 7, 7\]"):
        load_encoder(segmenter, colour)
    with pytest.raises(checkpoints.WrongArchitecture, match="no encoder"):
        load_encoder(segmenter, {"head.weight": torch.ones(1)})


def test_start_from_another_segmenter_with_and_without_its_head() -> None:
    spec = SegmenterSpec(encoder=SMALL, classes=("a", "b"))
    first, second = build_segmenter(spec), build_segmenter(spec)
    load_segmenter_weights(second, first.state_dict(), head=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    other = build_segmenter(SegmenterSpec(encoder=SMALL, classes=("lungs", "heart", "clavicles")))
    head = other.state_dict()["segmentation_head.0.weight"].clone()
    with pytest.raises(checkpoints.WrongArchitecture, match=r"segmentation_head\.0\.weight"):
        load_segmenter_weights(other, first.state_dict(), head=True)
    load_segmenter_weights(other, first.state_dict(), head=False)
    assert torch.equal(other.state_dict()["segmentation_head.0.weight"], head)
    for name, tensor in first.state_dict().items():
        if not name.startswith("segmentation_head."):
            assert torch.equal(other.state_dict()[name], tensor)
    unet = build_segmenter(SegmenterSpec(architecture="Unet", encoder=SMALL))
    with pytest.raises(checkpoints.WrongArchitecture, match="decoder"):
        load_segmenter_weights(unet, first.state_dict(), head=False)


def test_names_and_options() -> None:
    with pytest.raises(UnknownArchitecture, match="did you mean DeepLabV3Plus"):
        build_segmenter(SegmenterSpec(architecture="DeepLabPlus"))
    plus = build_segmenter(SegmenterSpec(architecture="U-Net++", encoder=SMALL))
    assert type(plus).__name__ == "UnetPlusPlus"
    with pytest.raises(UnknownEncoder, match="resnet18"):
        build_segmenter(SegmenterSpec(encoder="resnet_18"))
    with pytest.raises(ValueError, match="Unet sets its own output stride"):
        build_segmenter(SegmenterSpec(architecture="Unet", output_stride=8))
    with pytest.raises(ValueError, match=r"no option 'atrous'.*decoder_atrous_rates"):
        build_segmenter(SegmenterSpec(options={"atrous": 3}))
    with pytest.raises(ValueError, match="at least one class"):
        build_segmenter(SegmenterSpec(classes=()))
    with pytest.raises(UnsuitableEncoder, match="output stride"):
        build_segmenter(SegmenterSpec(output_stride=4))


def test_check_size() -> None:
    deeplab = build_segmenter(SegmenterSpec()).train()
    check_size(deeplab, 1, 96)
    assert deeplab.training
    check_size(build_segmenter(SegmenterSpec(architecture="Unet")), 1, 100)
    with pytest.raises(ValueError, match="not 100 but 96 or 112"):
        check_size(deeplab, 1, 100)
    with pytest.raises(ValueError, match="not 10 but 16"):
        check_size(deeplab, 1, 10)
    with pytest.raises(ValueError, match="side 64 are too small"):
        check_size(build_segmenter(SegmenterSpec(architecture="PAN")), 1, 64)


def test_checkpoint_round_trip_gives_the_same_numbers() -> None:
    options = {"decoder_atrous_rates": (2, 4, 6), "decoder_channels": 32}
    spec = SegmenterSpec(encoder=SMALL, classes=("a", "b"), output_stride=8, options=options)
    model = build_segmenter(spec).eval()
    files = dump_segmenter(model, spec, Preprocess(0.5, 0.25), {"thresholds": [0.4, 0.5]})
    again, meta = load_segmenter(files)
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))
    assert meta["extra"]["thresholds"] == [0.4, 0.5]
    found = SegmenterSpec.from_dict(meta["spec"])
    assert (found.classes, found.output_stride) == (("a", "b"), 8)
    with pytest.raises(checkpoints.WrongArchitecture, match="segmenter is needed"):
        load_segmenter(checkpoints.dumps({}, {"kind": "classifier"}))
