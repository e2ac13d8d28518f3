"""Steps from a map or a mask to a better one: drawn by hand, and by their definitions."""

import numpy as np
import pytest
import torch
from chexseg_platform.saliency.boost import (
    edge_aware,
    ignore_band,
    pooled,
    superpixels,
    without_small,
)
from chexseg_platform.saliency.seeds import guided_filter
from numpy.typing import NDArray
from scipy import ndimage

NAN = torch.nan


def drawn(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


def whole(batch: int, side: int) -> NDArray[np.int64]:
    """Content that fills its frame."""
    return np.array([[0, side, 0, side]] * batch)


MASK = drawn(
    "##.....#",
    "##......",
    "........",
    "....###.",
    "....###.",
    "....###.",
    "#......#",
    ".#......",
)


def test_small_regions_are_left_out() -> None:
    masks = MASK[None, None]
    assert without_small(masks, 0.0) is masks
    # 9 of 64 pixels are above an eighth, 4 are not, and corners do not join.
    kept = without_small(masks, 1 / 8)[0, 0]
    assert np.argwhere(kept).min(axis=0).tolist() == [3, 4]
    assert kept.sum() == 9
    assert without_small(masks, 4 / 64)[0, 0].sum() == 13  # as large as asked for is enough
    assert without_small(masks, 2 / 64)[0, 0].sum() == 13
    assert not without_small(masks, 0.5).any()


def test_each_mask_by_itself() -> None:
    many = np.stack([np.stack([MASK, ~MASK]), np.stack([np.zeros_like(MASK), MASK])])
    found = without_small(many, 1 / 8)
    # Of what is not drawn, the lower left corner is cut off by two drawn pixels.
    assert found.sum(axis=(2, 3)).tolist() == [[9, (~MASK).sum() - 1], [0, 9]]


def quarters(side: int) -> NDArray[np.uint8]:
    """Four squares of grey levels that are far apart."""
    half = side // 2
    return np.repeat(np.repeat(np.array([[0, 160], [240, 80]], np.uint8), half, 0), half, 1)


def test_superpixels_of_four_squares_are_these() -> None:
    region = superpixels(quarters(8)[None], whole(1, 8), 4)
    assert region.dtype == np.int32
    wanted = np.repeat(np.repeat([[1, 2], [3, 4]], 4, 0), 4, 1)
    np.testing.assert_array_equal(region[0], wanted)


def test_padding_is_no_superpixel_and_has_no_say() -> None:
    grey, content = np.full((2, 12, 12), 255, np.uint8), np.array([[1, 9, 3, 11], [0, 8, 0, 12]])
    grey[0, 1:9, 3:11] = quarters(8)
    grey[1, 0:8] = np.arange(12) * 10
    region = superpixels(grey, content, 4)
    np.testing.assert_array_equal(
        region[0, 1:9, 3:11], superpixels(quarters(8)[None], whole(1, 8), 4)[0]
    )
    assert (region[0] == 0).sum() == 144 - 64
    assert (region[1] == 0).sum() == 144 - 96
    other = grey.copy()
    other[0, :, 0], other[1, 8:] = 7, 99
    np.testing.assert_array_equal(superpixels(other, content, 4), region)


@pytest.mark.parametrize("seed", range(6))
def test_superpixels_hang_together_and_are_always_the_same(seed: int) -> None:
    random = np.random.default_rng(seed)
    grey = random.integers(0, 256, (2, 40, 40), dtype=np.uint8)
    top, left = random.integers(0, 10, 2)
    content = np.array([[top, 40, left, 39], [0, 1, 0, 40]])  # one row is an image, too
    compactness = [0.01, 0.1, 1.0][seed % 3]
    region = superpixels(grey, content, 20, compactness)
    np.testing.assert_array_equal(superpixels(grey, content, 20, compactness), region)
    assert (region > 0).sum(axis=(1, 2)).tolist() == [(40 - top) * (39 - left), 40]
    for image in region:
        numbers = np.unique(image[image > 0])
        assert numbers.tolist() == list(range(1, len(numbers) + 1))
        assert all(ndimage.label(image == number)[1] == 1 for number in numbers)


def test_flat_and_tiny_images_have_superpixels() -> None:
    flat = superpixels(np.full((1, 20, 20), 9, np.uint8), whole(1, 20), 4)
    # A pixel halfway between two centres goes to either.
    np.testing.assert_allclose(np.bincount(flat.ravel()), [0, 100, 100, 100, 100], atol=21)
    dot = superpixels(np.zeros((1, 3, 3), np.uint8), np.array([[1, 2, 1, 2]]), 50)
    assert dot[0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(("count", "compactness"), [(0, 0.1), (5, 0.0), (5, -1.0), (5, np.nan)])
def test_superpixels_that_cannot_be(count: int, compactness: float) -> None:
    with pytest.raises(ValueError, match="count of at least 1 and a compactness above 0"):
        superpixels(quarters(8)[None], whole(1, 8), count, compactness)


REGION = torch.tensor([[0, 1, 1], [0, 2, 1], [0, 2, 4]], dtype=torch.int32)


def test_pooling_by_hand() -> None:
    heat = torch.tensor([[9.0, 1.0, 2.0], [9.0, 4.0, 6.0], [9.0, 5.0, 8.0]])[None, None]
    wanted = torch.tensor([[0.0, 3.0, 3.0], [0.0, 4.5, 3.0], [0.0, 4.5, 8.0]])
    assert torch.equal(pooled(heat, REGION[None])[0, 0], wanted)
    assert pooled(heat.double(), REGION[None]).dtype == torch.float32


def test_maps_are_pooled_apart() -> None:
    random = torch.Generator().manual_seed(0)
    heat = torch.rand(2, 4, 3, 3, generator=random)
    heat[0, 1], heat[1, 0, 2, 2], heat[1, 2, 0, 0] = 0.0, NAN, torch.inf
    region = torch.stack([REGION, REGION.flip(1)])
    found = pooled(heat, region)
    assert found[0, 1].eq(0).all()
    # What is broken stays so, even by a pixel of the padding, and for itself alone.
    assert found.isnan().flatten(2).sum(2).tolist() == [[0, 0, 0, 0], [9, 0, 9, 0]]
    for image, k in [(0, 0), (0, 2), (0, 3), (1, 1), (1, 3)]:
        alone = pooled(heat[image, k][None, None], region[image][None])
        assert torch.equal(found[image, k], alone[0, 0])


def test_pooling_keeps_the_sum_of_each_region_and_is_done_after_once() -> None:
    random = np.random.default_rng(3)
    content = np.array([[4, 36, 0, 40], [0, 40, 0, 40]])
    region = torch.from_numpy(
        superpixels(random.integers(0, 256, (2, 40, 40), dtype=np.uint8), content, 30)
    )
    heat = torch.from_numpy(random.random((2, 3, 40, 40)))
    once = pooled(heat, region)
    for image in range(2):
        for number in range(1, int(region[image].max()) + 1):
            there = region[image] == number
            torch.testing.assert_close(
                once[image][:, there].double().sum(1), heat[image][:, there].sum(1),
                rtol=1e-5, atol=1e-5,
            )  # fmt: skip
            assert (once[image][:, there] == once[image][:, there][:, :1]).all()
    assert once[0, :, :4].eq(0).all()
    torch.testing.assert_close(pooled(once, region), once)


def test_edge_aware_is_the_guided_filter_of_each_map() -> None:
    random = torch.Generator().manual_seed(1)
    heat = torch.rand(2, 3, 20, 20, generator=random)
    heat[1, 1] = 0.0
    grey = (255 * torch.rand(2, 20, 20, generator=random)).byte()
    content = torch.tensor([[0, 20, 0, 20], [3, 17, 0, 20]])
    found = edge_aware(heat, grey, content, 0.1, 1e-2)
    inside = torch.ones(2, 20, 20, dtype=torch.bool)
    inside[1, :3] = inside[1, 17:] = False
    wanted = guided_filter(heat, grey / 255.0, radius=2, smoothness=1e-2, inside_NSS=inside)
    torch.testing.assert_close(found, wanted.clamp(min=0) * inside[:, None], rtol=1e-4, atol=1e-5)
    assert found[1, 1].eq(0).all()
    assert found[1, :, :3].eq(0).all()
    assert found[1, :, 17:].eq(0).all()


def test_edge_aware_stops_at_the_edges_of_the_image() -> None:
    heat, grey = torch.zeros(1, 1, 40, 40), torch.full((1, 40, 40), 50, dtype=torch.uint8)
    grey[..., :20] = 200
    heat[..., ::4, 2:20:4] = 1.0  # speckles on the bright side
    found = edge_aware(heat, grey, torch.tensor([[0, 40, 0, 40]]), 0.1, 1e-4)[0, 0]
    assert found[5:35, 5:19].min() > 0.02
    assert found[:, 20:].max() < 2e-3
    assert found.min() == 0


def test_edge_aware_keeps_what_is_broken_to_itself() -> None:
    random = torch.Generator().manual_seed(2)
    heat = torch.rand(1, 4, 16, 16, generator=random)
    grey = (255 * torch.rand(1, 16, 16, generator=random)).byte()
    content = torch.tensor([[2, 16, 0, 16]])
    good = edge_aware(heat, grey, content, 0.01, 1e-3)
    assert not torch.equal(good[:, :, 2:], heat[:, :, 2:])  # a window is one pixel at least
    heat[0, 1, 8, 8], heat[0, 3, 0, 0] = NAN, torch.inf
    found = edge_aware(heat, grey, content, 0.01, 1e-3)
    assert found.isnan().flatten(2).all(2).tolist() == [[False, True, False, True]]
    torch.testing.assert_close(found[:, [0, 2]], good[:, [0, 2]])


@pytest.mark.parametrize(("radius", "smoothness"), [(0, 1e-3), (1, 1e-3), (0.1, 0), (0.1, NAN)])
def test_edge_aware_filters_that_cannot_be(radius: float, smoothness: float) -> None:
    grey = torch.zeros(1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="radius between 0 and 1"):
        edge_aware(torch.zeros(1, 1, 4, 4), grey, torch.tensor([[0, 4, 0, 4]]), radius, smoothness)


def test_a_band_by_hand() -> None:
    mask = drawn(
        "........",
        "........",
        "...##...",
        "...#....",
        "........",
        "........",
        "........",
        "........",
    )
    one = drawn(
        "........",
        "...##...",
        "..#..#..",
        "..#.#...",
        "...#....",
        "........",
        "........",
        "........",
    )
    two = drawn(
        "...##...",
        "..####..",
        ".##..##.",
        ".##.##..",
        "..###...",
        "...#....",
        "........",
        "........",
    )
    masks, content = mask[None, None], whole(1, 8)
    np.testing.assert_array_equal(ignore_band(masks, 1 / 8, content)[0, 0], one)
    np.testing.assert_array_equal(ignore_band(masks, 0.01, content)[0, 0], one)
    np.testing.assert_array_equal(ignore_band(masks, 2 / 8, content)[0, 0], two)
    assert not ignore_band(masks, 0.0, content).any()


def by_distances(mask: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """Every pixel's distance to every pixel of the mask."""
    places = np.argwhere(np.ones_like(mask))
    apart = places[:, None] - np.argwhere(mask)[None]
    near = (np.hypot(apart[..., 0], apart[..., 1]) <= reach).any(axis=1)
    return near.reshape(mask.shape) & ~mask


@pytest.mark.parametrize("width", [0.001, 0.05, 0.1, 0.173, 0.6])
def test_bands_by_brute_force(width: float) -> None:
    random = np.random.default_rng(7)
    masks = random.random((2, 4, 24, 24)) > 0.995
    masks[0, 1] = False
    masks[1, 2] = True
    masks[1, 3, 5:20, 0:6] = masks[0, 3, 22:, 22:] = True
    content = np.array([[0, 24, 3, 20], [2, 24, 0, 24]])
    found = ignore_band(masks, width, content)
    assert found.dtype == bool
    for (b, k), (top, bottom, left, right) in zip(
        np.ndindex(2, 4), content.repeat(4, axis=0), strict=True
    ):
        wanted = by_distances(masks[b, k], max(1.0, width * 24))
        inside = np.zeros((24, 24), bool)
        inside[top:bottom, left:right] = True
        np.testing.assert_array_equal(found[b, k], wanted & inside)
    assert not found[0, 1].any()  # no object
    assert not found[1, 2].any()  # nothing else


@pytest.mark.parametrize("width", [-0.1, 1.0, np.nan])
def test_bands_that_cannot_be(width: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        ignore_band(MASK[None, None], width, whole(1, 8))
