"""Normalisation, answers by hand."""

import pytest
import torch
from chexseg_platform.models.preprocess import PRESETS, Preprocess, content_mask, preset


def test_values_by_hand() -> None:
    image = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    out = Preprocess(mean=0.5, std=0.25)(image)
    assert out.dtype == torch.float32
    assert out.shape == (1, 1, 2, 2)
    torch.testing.assert_close(out[0, 0], torch.tensor([[-2.0, 2.0], [-1.2, -0.4]]))


def test_padding_is_zero_after_normalisation_and_image_is_untouched() -> None:
    image = torch.full((2, 4, 4), 200, dtype=torch.uint8)
    content = torch.tensor([[1, 3, 0, 4], [0, 4, 0, 4]])
    out = Preprocess(0.5, 0.25)(image, content)
    assert out[0, 0, 0].eq(0).all()
    assert out[0, 0, 3].eq(0).all()
    inside = (200 / 255 - 0.5) / 0.25
    torch.testing.assert_close(out[0, 0, 1:3], torch.full((2, 4), inside))
    torch.testing.assert_close(out[1, 0], torch.full((4, 4), inside))
    assert image.eq(200).all()


def test_float_levels_are_not_changed_in_place() -> None:
    image = torch.full((1, 2, 2), 100.0)
    Preprocess(0.5, 0.25)(image)
    assert image.eq(100).all()


def test_three_channels_are_equal() -> None:
    image = torch.randint(0, 256, (2, 8, 8), dtype=torch.uint8)
    out = Preprocess(0.5, 0.2, channels=3)(image)
    assert out.shape == (2, 3, 8, 8)
    assert torch.equal(out[:, 0], out[:, 2])
    torch.testing.assert_close(out[:, :1], Preprocess(0.5, 0.2)(image))


def test_content_mask_counts_pixels() -> None:
    content = torch.tensor([[1, 3, 2, 5], [0, 6, 0, 6]])
    mask = content_mask(content, 6, 6)
    assert mask.sum(dim=(1, 2)).tolist() == [6, 36]
    assert bool(mask[0, 1, 2])
    assert not bool(mask[0, 3, 2])


def test_round_trip_and_presets() -> None:
    for name in PRESETS:
        made = preset(name, channels=3)
        assert Preprocess.from_dict(made.to_dict()) == made


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="positive std"):
        Preprocess(0.5, 0.0)
    with pytest.raises(ValueError, match="positive std"):
        Preprocess(float("nan"), 0.2)
    with pytest.raises(ValueError, match="1 or 3"):
        Preprocess(0.5, 0.2, channels=2)
    with pytest.raises(ValueError, match="mean, std and channels"):
        Preprocess.from_dict({"mean": 0.5})
    with pytest.raises(ValueError, match="imagenet"):
        preset("chexprt")
