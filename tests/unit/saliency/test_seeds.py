"""Seeds by hand; the guided filter against its definition, window by window; the CRF's settings."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from chexseg_platform.data import masks
from chexseg_platform.saliency import seeds as module
from chexseg_platform.saliency.seeds import (
    dense_crf,
    encode,
    find_seeds,
    guided_filter,
    to_cells,
)
from torch import Tensor

NAN = torch.nan


def maps(*rows: list[float]) -> Tensor:
    """One image and class."""
    return torch.tensor(rows)[None, None]


def guided_slowly(value: Tensor, guide: Tensor, radius: int, smoothness: float, inside: Tensor):
    """The filter as He et al. write it: a line for every window, then their mean at each pixel."""
    height, width = guide.shape
    places = [(y, x) for y in range(height) for x in range(width)]

    def window(y: int, x: int) -> list[tuple[int, int]]:
        return [
            (v, u) for v, u in places
            if abs(v - y) <= radius and abs(u - x) <= radius and inside[v, u]
        ]  # fmt: skip

    lines = {}
    for place in places:
        near = window(*place)
        if inside[place]:
            i = torch.stack([guide[q] for q in near])
            p = torch.stack([value[q] for q in near])
            slope = ((i * p).mean() - i.mean() * p.mean()) / (i.var(unbiased=False) + smoothness)
            lines[place] = slope, p.mean() - slope * i.mean()
    out = torch.zeros_like(guide)
    for place in lines:
        slopes, levels = zip(*(lines[q] for q in window(*place)), strict=True)
        out[place] = torch.stack(slopes).mean() * guide[place] + torch.stack(levels).mean()
    return out


@pytest.mark.parametrize("radius", [1, 2, 9])
def test_guided_filter_by_its_definition(radius: int) -> None:
    generator = torch.Generator().manual_seed(radius)
    guide = torch.rand(2, 5, 6, generator=generator, dtype=torch.float64)
    value = torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    inside = torch.ones(2, 5, 6, dtype=torch.bool)
    inside[1, :, :2] = inside[1, 4] = False
    value[1, :, :, :2] = 7.0  # must not leak in
    found = guided_filter(value, guide, radius=radius, smoothness=0.01, inside_NSS=inside)
    for image in range(2):
        for k in range(3):
            wanted = guided_slowly(value[image, k], guide[image], radius, 0.01, inside[image])
            torch.testing.assert_close(
                found[image, k][inside[image]], wanted[inside[image]], rtol=1e-8, atol=1e-8
            )


def test_guided_filter_keeps_the_guide_and_smooths_where_it_is_flat() -> None:
    guide = torch.zeros(1, 8, 8)
    guide[:, :, 4:] = 1.0
    kept = guided_filter(guide[:, None], guide, radius=2, smoothness=1e-6)
    torch.testing.assert_close(kept[:, 0], guide, atol=1e-4, rtol=0)
    flat = guided_filter(guide[:, None], torch.full_like(guide, 0.5), radius=1, smoothness=1e-6)
    # Two box means of a step: 0, 1/9, 3/9, 6/9, ...
    wanted = torch.tensor([0, 0, 1 / 9, 3 / 9, 6 / 9, 8 / 9, 1, 1])
    torch.testing.assert_close(flat[0, 0, 4], wanted, atol=1e-5, rtol=0)


def test_seeds_by_hand() -> None:
    # Of the maximum 8: 1, .5, .25 (not above .25), .125, .0625 and 0.
    heat = maps([8.0, 4.0, 2.0], [1.0, 0.5, 0.0], [2.001, 0.8, 0.799])
    found = find_seeds(heat, 3)
    assert found.foreground[0, 0].tolist() == [
        [True, True, False],
        [False] * 3,
        [True, False, False],
    ]
    assert found.background[0, 0].tolist() == [
        [False] * 3, [False, True, True], [False, False, True]
    ]  # fmt: skip
    other = find_seeds(heat, 3, foreground=0.5, background=0.5)
    assert other.foreground.sum() == 1  # the shares meet: one half itself is neither
    assert other.background.sum() == 7


def test_flat_and_bad_maps_give_no_seeds() -> None:
    good = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    heat = torch.stack(
        [good, torch.zeros(2, 2), torch.full((2, 2), 3.0), good * NAN, good / 0.0, good]
    )[None]
    allowed = torch.tensor([[True] * 5 + [False]])
    grey = torch.zeros(1, 4, 4, dtype=torch.uint8)
    for refine in ("none", "guided"):
        found = find_seeds(heat, 4, refine=refine, image_BSS=grey, allowed_BK=allowed)
        for seed in found:
            assert seed.dtype == torch.bool
            assert seed.shape == (1, 6, 4, 4)
            assert not seed[0, 1:].any()
        assert found.foreground[0, 0].any()
        assert found.background[0, 0].any()


def test_padding_is_neither_and_has_no_say_in_the_maximum() -> None:
    heat = torch.zeros(2, 1, 4, 4)
    heat[:, :, 0] = 100.0
    heat[:, :, 2, 1], heat[:, :, 2, 2] = 1.0, 0.2
    content = torch.tensor([[1, 4, 0, 3], [0, 4, 0, 4]])
    found = find_seeds(heat, 4, content_B4=content)
    assert found.foreground[0, 0].nonzero().tolist() == [[2, 1]]
    assert found.background[0, 0].sum() == 3 * 3 - 2
    assert not found.background[0, 0, 0].any()
    assert not found.background[0, 0, :, 3].any()
    assert found.foreground[1, 0].nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]


def test_refined_seeds_follow_the_image() -> None:
    # The map's half plane ends two columns beyond the image's, within the radius of 6.
    heat, grey = torch.zeros(1, 1, 64, 64), torch.full((1, 64, 64), 50.0)
    heat[..., :34] = 1.0
    grey[..., :32] = 200.0
    plain = find_seeds(heat, 64)
    fitted = find_seeds(heat, 64, refine="guided", image_BSS=grey.byte())
    assert plain.foreground[0, 0, 30].sum() == 34
    assert fitted.foreground[0, 0, 30].sum() == 32
    assert fitted.background[0, 0, 30].sum() == 32
    assert not (fitted.foreground & fitted.background).any()


def test_many_maps_are_worked_on_apart() -> None:
    heat = torch.rand(3, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    grey = (torch.arange(3 * 64).view(3, 8, 8) % 256).byte()
    assert heat.shape[0] * heat.shape[1] > module.MAPS
    together = find_seeds(heat, 8, refine="guided", image_BSS=grey)
    for image in range(3):
        for k in range(7):
            alone = find_seeds(
                heat[image : image + 1, k : k + 1], 8,
                refine="guided", image_BSS=grey[image : image + 1],
            )  # fmt: skip
            for whole, part in zip(together, alone, strict=True):
                assert torch.equal(whole[image, k], part[0, 0])


def test_a_cell_is_what_most_of_its_pixels_are() -> None:
    seed = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    seed[0, 0, :2, :4] = True  # half of the first cell
    seed[0, 0, 2, 0] = False
    seed[0, 0, 4:, :3] = True  # 6 of 8 pixels of a cell cut short
    seed[0, 0, 4, 4], seed[0, 0, :3, 4:] = True, True  # 1 of 4; 6 of 8
    assert to_cells(seed).tolist() == [[[[False, True], [True, False]]]]
    seed[0, 0, 2, 0] = True
    assert to_cells(seed)[0, 0, 0, 0]  # 9 of 16
    assert to_cells(torch.ones(1, 2, 5, 5, dtype=torch.bool)).all()


def test_encoded_seeds_decode() -> None:
    seed = torch.zeros(2, 10, 5, 5, dtype=torch.bool)
    seed[1, 1, 2:4, 1:] = True
    first, second = encode(seed)
    assert first == {}
    assert list(second) == ["Cardiomegaly"]
    np.testing.assert_array_equal(masks.decode(second["Cardiomegaly"], 5, 5), seed[1, 1].numpy())


class Field:
    """Stands in for a field that leaves labels as they are; it keeps what it is told."""

    made: list["Field"] = []  # noqa: RUF012

    def __init__(self, width: int, height: int, labels: int) -> None:
        self.shape, self.said = (width, height, labels), []
        Field.made.append(self)

    def setUnaryEnergy(self, energy) -> None:
        self.energy = energy

    def addPairwiseGaussian(self, **settings) -> None:
        self.said.append(settings)

    def addPairwiseBilateral(self, rgbim, **settings) -> None:
        assert rgbim.flags.c_contiguous
        self.image = rgbim
        self.said.append(settings)

    def inference(self, iterations: int):
        self.said.append(iterations)
        return self.energy


def one_hot(labels, n_labels, gt_prob, zero_unsure):
    assert (n_labels, gt_prob, zero_unsure) == (2, 0.7, False)
    assert labels.dtype == np.int32
    return np.stack([labels.ravel() == 0, labels.ravel() == 1]).astype(np.float32)


def test_dense_crf_is_told_the_released_settings(monkeypatch) -> None:
    package = ModuleType("pydensecrf")
    package.densecrf = SimpleNamespace(DenseCRF2D=Field)
    package.utils = SimpleNamespace(unary_from_labels=one_hot)
    monkeypatch.setitem(sys.modules, "pydensecrf", package)
    heat = maps([8.0, 4.0, 2.0], [1.0, 0.5, 0.0], [9.9, 9.9, 9.9])
    grey = torch.arange(9).view(1, 3, 3).byte() * 20
    content = torch.tensor([[0, 2, 0, 3]])
    plain = find_seeds(heat, 3, content_B4=content)
    Field.made.clear()
    found = find_seeds(heat, 3, refine="dense-crf", image_BSS=grey, content_B4=content)
    for one, other in zip(plain, found, strict=True):
        assert torch.equal(one, other)
    assert len(Field.made) == 2  # a field a cut
    for field in Field.made:
        assert field.shape == (3, 2, 2)
        assert field.image.shape == (2, 3, 3)
        np.testing.assert_array_equal(field.image[..., 2], grey[0, :2].numpy())
        assert field.said == [{"sxy": 3, "compat": 3}, {"sxy": 50, "srgb": 5, "compat": 10}, 10]


def test_dense_crf_that_is_not_installed_says_how(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(ValueError, match="pip install pydensecrf2"):
        find_seeds(torch.zeros(1, 1, 2, 2), 2, refine="dense-crf", image_BSS=torch.zeros(1, 2, 2))


def test_dense_crf_follows_the_image() -> None:
    pytest.importorskip("pydensecrf.densecrf")
    mask, grey = np.zeros((40, 40), bool), np.full((40, 40), 50, np.uint8)
    mask[:, :22], grey[:, :20] = True, 200
    assert dense_crf(mask, grey).sum(axis=1).tolist() == [20] * 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"foreground": 0.1, "background": 0.2}, "background <= foreground"),
        ({"foreground": 1.1}, "background <= foreground"),
        ({"refine": "crf"}, "none, guided, dense-crf"),
        ({"refine": "guided"}, "give the grey images"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_seeds(torch.ones(1, 1, 2, 2), 2, **settings)
