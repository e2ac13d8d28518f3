"""Augmentation: identities, known movements, and where randomness comes from."""

import pytest
import torch
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.training.augment import (
    Augment,
    affine_matrices,
    prepare,
    vary_geometry,
    vary_intensity,
)
from torch import Tensor

GREY = Preprocess(0.5, 0.25)
FULL = Augment(
    rotate=10, scale=0.1, translate=0.05, brightness=0.1, contrast=0.2, gamma=0.3, flip=0.5
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    image = torch.randint(0, 256, (4, 32, 32), dtype=torch.uint8, generator=generator(seed))
    return image, (image > 128)[:, None].expand(-1, 3, -1, -1)


def test_the_default_varies_nothing() -> None:
    image, mask = images()
    for augment in (None, Augment()):
        out, same, _ = prepare(image, mask, GREY, augment=augment)
        assert torch.equal(out, GREY(image))
        assert same is mask


def test_the_same_generator_gives_the_same_batch_and_the_global_one_is_left_alone() -> None:
    image, mask = images()
    before = torch.get_rng_state()
    first = prepare(image, mask, GREY, augment=FULL, generator=generator(7))
    second = prepare(image, mask, GREY, augment=FULL, generator=generator(7))
    other = prepare(image, mask, GREY, augment=FULL, generator=generator(8))
    assert torch.equal(torch.get_rng_state(), before)
    assert first[1] is not None
    assert second[1] is not None
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_flip_is_exact_for_image_and_mask() -> None:
    image, mask = images()
    out, moved, flipped = vary_geometry(GREY(image), mask, Augment(flip=1.0), generator())
    assert flipped.all()
    torch.testing.assert_close(out, GREY(image).flip(-1), atol=1e-4, rtol=0)
    assert moved is not None
    assert torch.equal(moved, mask.flip(-1))


def test_images_of_a_batch_move_differently_and_masks_with_them() -> None:
    blob = torch.zeros(6, 1, 64, 64)
    blob[:, :, 20:30, 24:44] = 1.0
    augment = Augment(rotate=20, scale=0.2, translate=0.1)
    out, mask, _ = vary_geometry(blob, blob.bool(), augment, generator())
    assert mask is not None
    assert torch.equal(mask, out >= 0.5)
    assert len({int(m.sum()) for m in mask}) > 1


def centre(mask: Tensor) -> tuple[float, float]:
    rows, columns = mask.nonzero(as_tuple=True)
    return rows.double().mean().item(), columns.double().mean().item()


def test_matrices_do_what_their_fields_say() -> None:
    theta = affine_matrices(200, Augment(rotate=30, scale=0.25, translate=0.1), generator())
    zoom = 1 / theta[:, :, :2].det().sqrt()
    assert zoom.min() >= 0.75
    assert zoom.max() <= 1.25
    angle = torch.rad2deg(torch.atan2(theta[:, 1, 0], theta[:, 0, 0]))
    assert 20 < angle.abs().max() <= 30.001
    # Where the middle of the input lands in the output: moved by at most 0.2 of half a side.
    middle = -torch.linalg.solve(theta[:, :, :2], theta[:, :, 2])
    assert 0.15 < middle.abs().max() <= 0.2001
    assert affine_matrices(1, Augment(), generator())[0].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_translation_moves_both_by_the_same_pixels() -> None:
    blob = torch.zeros(1, 1, 64, 64)
    blob[:, :, 28:36, 28:36] = 1.0
    augment = Augment(translate=0.25)
    shift = -affine_matrices(1, augment, generator(3))[0, :, 2] * 32  # (x, y) in pixels
    _, mask, _ = vary_geometry(blob, blob.bool(), augment, generator(3))
    assert mask is not None
    row, column = centre(mask[0, 0])
    assert column - 31.5 == pytest.approx(shift[0].item(), abs=0.6)
    assert row - 31.5 == pytest.approx(shift[1].item(), abs=0.6)


def test_what_comes_in_from_outside_is_padding() -> None:
    image = torch.full((1, 32, 32), 250, dtype=torch.uint8)
    out, _, _ = prepare(image, None, GREY, augment=Augment(translate=0.5), generator=generator(1))
    inside = (250 / 255 - 0.5) / 0.25
    assert out.eq(0).any()
    assert out.isclose(torch.tensor(inside), atol=1e-4).any()


def test_padding_stays_zero_whatever_the_brightness() -> None:
    image = torch.full((8, 16, 16), 100, dtype=torch.uint8)
    content = torch.tensor([[4, 12, 0, 16]] * 8)
    augment = Augment(brightness=0.3, contrast=0.3, gamma=0.5)
    out, _, _ = prepare(
        image, None, GREY, content_B4=content, augment=augment, generator=generator()
    )
    assert out[:, :, :4].eq(0).all()
    assert out[:, :, 12:].eq(0).all()
    assert out[:, 0, 8, 8].unique().numel() == 8


def test_intensity_stays_in_range_and_in_its_limits() -> None:
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(64, -1, -1)
    out = vary_intensity(image, FULL, generator())
    assert out.min() >= 0
    assert out.max() <= 255
    shifted = vary_intensity(image, Augment(brightness=0.1), generator())[:, 8, 0] - 128
    assert 20 < shifted.abs().max() <= 25.51
    darker = vary_intensity(image, Augment(gamma=1.0), generator())[:, 8, 0]
    assert darker.min() >= 255 * (128 / 255) ** 2 - 0.01
    assert darker.max() <= 255 * (128 / 255) ** 0.5 + 0.01


def test_soft_masks_keep_their_type() -> None:
    image, mask = images()
    _, moved, _ = prepare(image, mask.float(), GREY, augment=FULL, generator=generator())
    assert moved is not None
    assert moved.dtype == torch.float32
    assert 0 <= moved.min() <= moved.max() <= 1


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"augment\.rotate is between 0 and 180, not 200"):
        Augment(rotate=200)
    with pytest.raises(ValueError, match=r"augment\.scale"):
        Augment(scale=1.0)
    with pytest.raises(ValueError, match=r"augment\.flip"):
        Augment(flip=float("nan"))
    with pytest.raises(ValueError, match="generator"):
        prepare(images()[0], None, GREY, augment=FULL)
