"""Heat map -> mask: known examples, plain references, properties."""

import numpy as np
import pytest
import torch
from chexseg_platform.saliency import threshold as module
from chexseg_platform.saliency.histogram import split_histogram, to_level
from chexseg_platform.saliency.threshold import (
    Method,
    best_threshold,
    box_mean,
    heat_to_mask,
    mass_level,
    normalise,
    otsu,
    pooled_iou,
    tune,
    upsample,
)
from numpy.typing import NDArray
from torch import Tensor

CONTENT = torch.tensor([[4, 28, 0, 32], [0, 32, 8, 24]])


def maps(seed: int = 0, classes: int = 3, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return upsample(torch.rand(2, classes, 5, 5, generator=generator).pow(3) * 1e-4, size)


def plain_otsu(counts: NDArray[np.int64]) -> int:
    """Otsu by the definition: the level that parts the histogram into the two groups whose
    weighted variance is least; the lowest of equals."""
    best, found = np.inf, 0
    levels = np.arange(len(counts))
    for level in range(len(counts)):
        low, high = levels <= level, levels > level
        w0, w1 = counts[low].sum(), counts[high].sum()
        if w0 == 0 or w1 == 0:
            continue
        m0, m1 = np.average(levels[low], weights=counts[low]), 0.0
        m1 = np.average(levels[high], weights=counts[high])
        inside = (counts[low] * (levels[low] - m0) ** 2).sum()
        inside += (counts[high] * (levels[high] - m1) ** 2).sum()
        if inside < best * (1 - 1e-12):
            best, found = inside, level
    return found


def test_otsu_of_known_histograms() -> None:
    two = torch.zeros(256, dtype=torch.int64)
    two[10], two[200] = 50, 50
    assert otsu(two).item() == 10  # any cut from 10 to 199 parts them; the lowest is taken
    uniform = torch.ones(256, dtype=torch.int64)
    assert otsu(uniform).item() == 127
    one = torch.zeros(256, dtype=torch.int64)
    one[77] = 9
    assert otsu(one).item() == 0
    # Wikipedia's and many lectures' 6-level example: 8 7 2 6 9 4 pixels, best cut after level 2.
    assert otsu(torch.tensor([8, 7, 2, 6, 9, 4])).item() == 2


def test_otsu_equals_plain_reference() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 50, (30, 256)) * (generator.random((30, 256)) < 0.3)
    counts[5:10] = generator.poisson(300 * np.exp(-np.arange(256) / 20), (5, 256))
    wanted = [plain_otsu(row) for row in counts]
    assert otsu(torch.from_numpy(counts)).tolist() == wanted
    assert otsu(torch.from_numpy(counts).view(3, 10, 256)).shape == (3, 10)


def test_normalise_reaches_0_and_1_inside_the_image_only() -> None:
    heat = maps()
    heat[0, 0, 0, 0] = 99.0  # in the padding: must not count
    unit, usable = normalise(heat, CONTENT)
    assert usable.all()
    for b, (top, bottom, left, right) in enumerate(CONTENT.tolist()):
        image = unit[b, :, top:bottom, left:right]
        assert image.amin(dim=(1, 2)).eq(0).all()
        torch.testing.assert_close(image.amax(dim=(1, 2)), torch.ones(3))
        outside = unit[b].clone()
        outside[:, top:bottom, left:right] = 0
        assert outside.eq(0).all()


@pytest.mark.parametrize("content", [None, CONTENT])
@pytest.mark.parametrize(("share", "reach"), [(0.02, 0), (0.1, 1), (0.16, 2), (0.9, 14)])
def test_a_box_is_the_mean_of_the_image_around_each_pixel(
    content: Tensor | None, share: float, reach: int
) -> None:
    heat = maps(classes=2)
    found = box_mean(heat, share, content)
    for b in range(2):
        top, bottom, left, right = (0, 32, 0, 32) if content is None else content[b].tolist()
        wanted = torch.zeros(2, 32, 32)
        for row in range(top, bottom):
            rows = slice(max(top, row - reach), min(bottom, row + reach + 1))
            for column in range(left, right):
                columns = slice(max(left, column - reach), min(right, column + reach + 1))
                wanted[:, row, column] = heat[b, :, rows, columns].mean(dim=(1, 2))
        torch.testing.assert_close(found[b], wanted)


def test_a_box_of_an_even_map_does_not_fade_at_its_borders() -> None:
    found = box_mean(torch.full((2, 1, 32, 32), 3.0), 0.3, CONTENT)
    assert found[0, 0, 4:28].allclose(torch.tensor(3.0))
    assert not found[0, 0, :4].any()


def test_a_box_keeps_what_is_no_number() -> None:
    heat = maps(classes=2)
    heat[0, 1, 16, 16] = torch.nan
    assert box_mean(heat, 0.1, CONTENT).isnan().flatten(2).any(dim=2).tolist() == [
        [False, True], [False, False]
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_box_that_is_none(share: float) -> None:
    with pytest.raises(ValueError, match="share of the frame"):
        box_mean(maps(), share)


def test_the_level_that_holds_a_share_of_the_mass() -> None:
    counts = torch.zeros(256, dtype=torch.int64)
    counts[[0, 10, 100, 200]] = torch.tensor([50, 10, 2, 1])  # mass 0, 100, 200, 200
    for share, level in ((0.0, 255), (0.4, 199), (0.41, 99), (0.8, 99), (0.81, 9), (1.0, 9)):
        wanted = torch.tensor(share, dtype=torch.float64)
        assert mass_level(counts, wanted).item() == level, share
    # Of a map of zeros all is nothing: whatever the level, no pixel is above the last.
    assert mass_level(torch.eye(256, dtype=torch.int64)[0], torch.tensor(0.5)).item() == 255


@pytest.mark.parametrize("content", [None, CONTENT])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_mask_of_the_mass_is_the_smallest_that_has_it(
    content: Tensor | None, share: float
) -> None:
    heat = maps()
    made = heat_to_mask(heat, 32, "mass", threshold=share, content_B4=content)
    level = to_level(normalise(heat, content)[0]).double()
    for b in range(2):
        for k in range(3):
            inside, mask = level[b, k], made.mask_BKSS[b, k]
            assert inside[mask].sum() >= share * inside.sum()
            lowest = inside[mask].min()
            assert inside[inside > lowest].sum() < share * inside.sum()
            assert (inside[~mask] < lowest).all()


def test_masks_do_not_depend_on_scale_or_offset() -> None:
    heat = maps()
    for method, threshold in (("otsu", None), ("mass", 0.4), ("fixed", 0.3)):
        mask = heat_to_mask(heat, 32, method, threshold=threshold).mask_BKSS  # type: ignore[arg-type]
        scaled = heat_to_mask(heat * 4096, 32, method, threshold=threshold)  # type: ignore[arg-type]
        assert torch.equal(mask, scaled.mask_BKSS)


@pytest.mark.parametrize("content", [None, CONTENT])
def test_each_method_by_a_plain_loop(content: Tensor | None) -> None:
    small = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    tuned = torch.tensor([0.2, 0.5, 0.8])
    fixed = torch.full((3,), 0.4)
    cases: list[tuple[Method, float | Tensor | None]] = [
        ("otsu", None),
        ("fixed", 0.4),
        ("tuned", tuned),
    ]
    unit, _ = normalise(upsample(small, 32), content)
    level = to_level(unit)
    for method, threshold in cases:
        made = heat_to_mask(small, 32, method, threshold=threshold, content_B4=content)
        for b in range(2):
            rows, columns = slice(None), slice(None)
            if content is not None:
                top, bottom, left, right = content[b].tolist()
                rows, columns = slice(top, bottom), slice(left, right)
            for k in range(3):
                image = level[b, k].numpy()[rows, columns]
                if method == "otsu":
                    cut = plain_otsu(np.bincount(image.ravel(), minlength=256))
                else:
                    cut = round(float((fixed if method == "fixed" else tuned)[k]) * 255)
                wanted = np.zeros((32, 32), bool)
                wanted[rows, columns] = image > cut
                assert np.array_equal(made.mask_BKSS[b, k].numpy(), wanted)
                assert made.threshold_BK[b, k].item() == pytest.approx(cut / 255)


def test_a_stored_threshold_makes_the_mask_again() -> None:
    heat = maps(classes=1)
    made = heat_to_mask(heat, 32)
    for b in range(2):
        again = heat_to_mask(heat[b : b + 1], 32, "fixed", threshold=float(made.threshold_BK[b, 0]))
        assert torch.equal(again.mask_BKSS[0], made.mask_BKSS[b])


@pytest.mark.parametrize("method", ["otsu", "fixed"])
@pytest.mark.parametrize("bad", [0.0, 5e-3, float("nan"), float("inf")])
def test_flat_and_broken_maps_give_empty_masks(method: Method, bad: float) -> None:
    heat = torch.full((1, 2, 4, 4), bad)
    heat[0, 1] = torch.rand(4, 4)
    if not np.isfinite(bad):
        heat[0, 0, 1:] = 0.5
    made = heat_to_mask(heat, 16, method, threshold=None if method == "otsu" else 0.0)
    assert made.usable_BK.tolist() == [[False, True]]
    assert not made.mask_BKSS[0, 0].any()
    assert made.mask_BKSS[0, 1].any()
    assert made.threshold_BK.isnan().tolist() == [[True, False]]


def test_masks_only_where_allowed() -> None:
    allowed = torch.tensor([[True, False, True], [False, False, True]])
    made = heat_to_mask(maps(), 32, allowed_BK=allowed)
    assert torch.equal(made.mask_BKSS.flatten(2).any(-1), allowed)
    assert torch.equal(~made.threshold_BK.isnan(), allowed)
    assert torch.equal(made.usable_BK, allowed)
    everywhere = heat_to_mask(maps(), 32)
    assert torch.equal(made.mask_BKSS[allowed], everywhere.mask_BKSS[allowed])
    none = heat_to_mask(maps(), 32, allowed_BK=torch.zeros_like(allowed))
    assert not none.mask_BKSS.any()


def test_a_class_that_could_not_be_tuned_falls_back_to_otsu() -> None:
    threshold = torch.tensor([0.5, float("nan"), 0.2])
    made = heat_to_mask(maps(), 32, "tuned", threshold=threshold)
    plain = heat_to_mask(maps(), 32)
    assert torch.equal(made.mask_BKSS[:, 1], plain.mask_BKSS[:, 1])
    assert made.threshold_BK[0, 0].item() == pytest.approx(128 / 255)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = heat_to_mask(maps(), 32, content_B4=CONTENT)
    monkeypatch.setattr(module, "CACHED", 32 * 32)
    single = heat_to_mask(maps(), 32, content_B4=CONTENT)
    assert torch.equal(whole.mask_BKSS, single.mask_BKSS)
    assert torch.equal(whole.threshold_BK, single.threshold_BK)


def test_bad_requests() -> None:
    heat = maps()
    with pytest.raises(ValueError, match="'otsu', 'fixed' or 'tuned'"):
        heat_to_mask(heat, 32, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a threshold"):
        heat_to_mask(heat, 32, "fixed")
    with pytest.raises(ValueError, match="lie in"):
        heat_to_mask(heat, 32, "fixed", threshold=1.5)
    with pytest.raises(ValueError, match="2 thresholds were given for 3"):
        heat_to_mask(heat, 32, "tuned", threshold=torch.tensor([0.1, 0.2]))


def iou_by_hand(value: Tensor, truth: Tensor, cut: float) -> float:
    predicted = value > cut
    return float((predicted & truth).sum() / (predicted | truth).sum())


def test_tuning_equals_trying_every_threshold_on_masks() -> None:
    heat, truth = maps(), maps(seed=9) > 2e-5
    unit, _ = normalise(heat, CONTENT)
    counted = torch.tensor([[True, True, False], [True, False, True]])
    counts = sum(
        split_histogram(
            unit[b : b + 1],
            truth[b : b + 1],
            content_B4=CONTENT[b : b + 1],
            counted_BK=counted[b : b + 1],
        )
        for b in range(2)
    )
    assert isinstance(counts, Tensor)
    tuned = tune(counts)
    assert tuned.curve_KT.shape == (3, 127)
    level = to_level(unit)
    inside = torch.zeros(2, 32, 32, dtype=torch.bool)
    for b, (top, bottom, left, right) in enumerate(CONTENT.tolist()):
        inside[b, top:bottom, left:right] = True
    for k in range(3):
        pixels = inside & counted[:, k, None, None]
        values, wanted = level[:, k][pixels].int(), truth[:, k][pixels]
        curve = [iou_by_hand(values, wanted, t) for t in range(1, 255, 2)]
        np.testing.assert_allclose(tuned.curve_KT[k].numpy(), curve, atol=1e-7)
        assert tuned.iou_K[k].item() == pytest.approx(max(curve))
        chosen = round(tuned.threshold_K[k].item() * 255)
        assert iou_by_hand(values, wanted, chosen) == pytest.approx(max(curve))


def test_tuning_without_a_positive_says_nan() -> None:
    unit, _ = normalise(maps())
    truth = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    truth[:, 1] = to_level(unit[:, 1]) > 127
    tuned = tune(split_histogram(unit, truth))
    assert tuned.threshold_K.isnan().tolist() == [True, False, True]
    assert tuned.iou_K[1].item() == pytest.approx(1.0)
    assert tuned.threshold_K[1].item() == pytest.approx(127 / 255)


def test_ties_go_to_the_middle() -> None:
    curve = torch.tensor(
        [[0.1, 0.5, 0.5, 0.5, 0.2], [0.3, 0.3, 0.1, 0.0, 0.0], [torch.nan] * 5, [0, 0, 0, 0, 0.9]]
    )
    assert best_threshold(curve).tolist() == [2, 0, -1, 4]


def test_pooled_iou_by_hand() -> None:
    counts = torch.tensor([[[4, 1, 0]], [[1, 1, 2]]])
    assert pooled_iou(counts)[0].tolist() == pytest.approx([4 / 9, 3 / 5, 2 / 4])
