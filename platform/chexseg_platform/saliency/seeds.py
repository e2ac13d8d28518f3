"""Where saliency maps are sure: foreground and background to learn boundaries from.

A map is divided by its maximum and cut twice: what is above the higher share is foreground, what
is below the lower one background, and what lies between is left out (IRNet, Ahn et al. 2019,
section 4.1, with the shares of the released CheXseg code). Each cut's mask may be refined
against the X-ray, so that its outline follows the image's: by a guided filter (He et al. 2013),
which is plain torch and batched, or by the dense CRF that both released codes use, one map at a
time.

Letterbox padding takes no part: not in the maximum, not in the refinement, not in the seeds.

Shapes: B images, K classes, N maps, C channels, h x w cells of a map, S side of the frame.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chexseg_platform.data import masks
from chexseg_platform.findings import FINDINGS
from chexseg_platform.models.preprocess import content_mask
from chexseg_platform.saliency.threshold import FLAT, upsample

Refine = Literal["none", "guided", "dense-crf"]
MAPS = 8
"""Maps refined at once: all of a batch's would take gigabytes."""
GUIDE_REACH = 1 / 10
"""Radius of the guided filter, as a share of the frame's side."""
GUIDE_SMOOTHNESS = 1e-3
"""Of the guided filter: variance of grey levels (0 to 1) below which a window counts as smooth."""


class Seeds(NamedTuple):
    """Bool (B, K, S, S) each, nowhere both: sure foreground and sure background."""

    foreground: Tensor
    background: Tensor


def find_seeds(
    heat_BKhw: Tensor,
    size: int,
    *,
    foreground: float = 0.25,
    background: float = 0.10,
    refine: Refine = "none",
    image_BSS: Tensor | None = None,
    content_B4: Tensor | None = None,
    allowed_BK: Tensor | None = None,
) -> Seeds:
    """Find the confident regions of a batch of maps at model size.

    Args:
        heat_BKhw: >= 0, any scale. Maps that are flat or not finite give no seeds.
        size: S, the side of the seeds.
        foreground: share of a map's maximum above which a pixel is foreground.
        background: share below which it is background; not above `foreground`.
        refine: "none"; or "guided" or "dense-crf", which refine the mask of each cut.
        image_BSS: grey levels 0 to 255, uint8 or floating; for `refine`.
        content_B4: integer (top, bottom, left, right) of the image inside its frame.
        allowed_BK: bool, which maps may give seeds; all by default.

    Raises:
        ValueError: for shares out of order or outside [0, 1], an unknown way to refine, one
            without images, or "dense-crf" where pydensecrf is not installed.
    """
    _check(foreground, background, refine, image_BSS)
    batch, classes = heat_BKhw.shape[:2]
    usable_BK = heat_BKhw.isfinite().all(dim=3).all(dim=2)
    if allowed_BK is not None:
        usable_BK = usable_BK & allowed_BK.to(heat_BKhw.device)
    found = Seeds(*heat_BKhw.new_zeros((2, batch, classes, size, size), dtype=torch.bool))
    image_M, class_M = usable_BK.nonzero(as_tuple=True)
    for image_N, class_N in zip(image_M.split(MAPS), class_M.split(MAPS), strict=True):
        inside_NSS = _inside(content_B4, image_N, size)
        unit_NSS = _unit(upsample(heat_BKhw[image_N, class_N][:, None], size)[:, 0], inside_NSS)
        # A flat map is NaN by now, so it is above no share and below none.
        cut_N2SS = torch.stack((unit_NSS > foreground, ~(unit_NSS < background)), dim=1)
        if refine != "none" and image_BSS is not None:
            grey_NSS = image_BSS.to(heat_BKhw.device)[image_N]
            cut_N2SS = _refined(refine, cut_N2SS, grey_NSS, inside_NSS)
        inside_NSS = inside_NSS & unit_NSS.isfinite()
        found.foreground[image_N, class_N] = cut_N2SS[:, 0] & inside_NSS
        # Refined apart, the two cuts may disagree: background is what neither takes.
        found.background[image_N, class_N] = ~cut_N2SS.any(dim=1) & inside_NSS
    return found


def to_cells(seed_BKSS: Tensor, stride: int = 4) -> Tensor:
    """Bring seeds to a coarser grid: a cell is a seed where more than half of its pixels are.

    Half and not all, because a tube or the rim of a lesion is narrower than two cells; two kinds
    of seed that do not overlap still do not. At the far borders cells may be cut short.

    Returns:
        Bool (B, K, h, w), h = w = S / stride rounded up.
    """
    share = F.avg_pool2d(seed_BKSS.float(), stride, ceil_mode=True)
    return share > 0.5


def encode(seed_BKSS: Tensor) -> list[dict[str, str]]:
    """Per image, finding -> COCO counts of its seeds; findings without a seed are absent.

    Args:
        seed_BKSS: bool, K the ten findings.
    """
    array = seed_BKSS.cpu().numpy()
    return [
        {name: masks.encode(mask) for name, mask in zip(FINDINGS, image, strict=True) if mask.any()}
        for image in array
    ]


def guided_filter(
    value_NCSS: Tensor,
    guide_NSS: Tensor,
    *,
    radius: int,
    smoothness: float,
    inside_NSS: Tensor | None = None,
) -> Tensor:
    """Smooth values but for where the guide has edges (He et al. 2013, equations 5, 6 and 8).

    Each window's values are fitted by a line in the guide's; a pixel takes the mean of its
    windows' lines.

    Args:
        value_NCSS: floating.
        guide_NSS: floating, on the scale that `smoothness` is the square of.
        radius: windows are 2 radius + 1 pixels a side, cut off at the borders.
        smoothness: the paper's epsilon, above 0.
        inside_NSS: bool, the pixels that take part; all by default. Elsewhere the result has no
            meaning.

    Returns:
        (N, C, S, S), floating.
    """
    guide = guide_NSS[:, None]
    weight = torch.ones_like(guide) if inside_NSS is None else inside_NSS[:, None].to(guide.dtype)
    number = _box(weight, radius).clamp_(min=torch.finfo(guide.dtype).tiny)

    def mean(values: Tensor) -> Tensor:
        return _box(values * weight, radius) / number

    mean_guide, mean_value = mean(guide), mean(value_NCSS)
    variance = mean(guide * guide) - mean_guide**2
    slope = (mean(guide * value_NCSS) - mean_guide * mean_value) / (variance + smoothness)
    level = mean_value - slope * mean_guide
    return mean(slope) * guide + mean(level)


def dense_crf(mask_SS: NDArray[np.bool_], grey_SS: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Refine one mask by a dense conditional random field (Krähenbühl and Koltun 2011).

    Labels are right with probability 0.7; ten iterations; a Gaussian of 3 pixels (weight 3) and
    a bilateral of 50 pixels and 5 grey levels (weight 10), as in the released CheXseg code.

    Raises:
        ValueError: where pydensecrf is not installed.
    """
    crf, utils = _pydensecrf()
    height, width = mask_SS.shape
    field = crf.DenseCRF2D(width, height, 2)
    labels = np.ascontiguousarray(mask_SS, dtype=np.int32)
    field.setUnaryEnergy(utils.unary_from_labels(labels, 2, gt_prob=0.7, zero_unsure=False))
    field.addPairwiseGaussian(sxy=3, compat=3)
    colour = np.ascontiguousarray(np.repeat(grey_SS[:, :, None], 3, axis=2))
    field.addPairwiseBilateral(sxy=50, srgb=5, rgbim=colour, compat=10)
    likely = np.asarray(field.inference(10)).reshape(2, height, width)
    return likely[1] > likely[0]


def _box(value_NCSS: Tensor, radius: int) -> Tensor:
    """Sum over windows, cut off at the borders: two differences of running sums."""
    for dim in (2, 3):
        size = value_NCSS.shape[dim]
        place = torch.arange(size, device=value_NCSS.device)
        total = value_NCSS.cumsum(dim)
        before = total.index_select(dim, (place - radius - 1).clamp(min=0))
        before.index_fill_(dim, place[: radius + 1], 0.0)
        value_NCSS = total.index_select(dim, (place + radius).clamp(max=size - 1)) - before
    return value_NCSS


def _inside(content_B4: Tensor | None, image_N: Tensor, size: int) -> Tensor:
    if content_B4 is None:
        return torch.ones(len(image_N), size, size, dtype=torch.bool, device=image_N.device)
    return content_mask(content_B4.to(image_N.device)[image_N], size, size)


def _unit(heat_NSS: Tensor, inside_NSS: Tensor) -> Tensor:
    """Each map over its maximum inside; NaN where it is flat there, or nowhere above 0."""
    low_N = heat_NSS.masked_fill(~inside_NSS, torch.inf).amin(dim=(1, 2))
    high_N = heat_NSS.masked_fill(~inside_NSS, -torch.inf).amax(dim=(1, 2))
    usable_N = (high_N > 0) & (high_N - low_N > FLAT * high_N)
    return heat_NSS / torch.where(usable_N, high_N, torch.nan)[:, None, None]


def _refined(refine: Refine, cut_NCSS: Tensor, grey_NSS: Tensor, inside_NSS: Tensor) -> Tensor:
    if refine == "guided":
        smooth = guided_filter(
            cut_NCSS.float(),
            grey_NSS.float() / 255.0,
            radius=max(1, round(GUIDE_REACH * grey_NSS.shape[-1])),
            smoothness=GUIDE_SMOOTHNESS,
            inside_NSS=inside_NSS,
        )
        return smooth > 0.5
    cut, inside = cut_NCSS.cpu().numpy(), inside_NSS.cpu().numpy()
    grey = grey_NSS.float().round().clamp(0, 255).byte().cpu().numpy()
    for maps, image, whole in zip(cut, grey, inside, strict=True):
        # What is inside is a rectangle, and the field knows rectangles only.
        place = np.ix_(whole.any(axis=1), whole.any(axis=0))
        for mask in maps:
            mask[place] = dense_crf(mask[place], image[place])
    return torch.from_numpy(cut).to(cut_NCSS.device)


def _pydensecrf() -> tuple[Any, Any]:
    try:
        from pydensecrf import densecrf, utils
    except ImportError as error:
        raise ValueError(
            "Seeds are to be refined by a dense CRF, which is not installed: run `pip install "
            "pydensecrf2`, or set refine to `guided`."
        ) from error
    return densecrf, utils


def _check(foreground: float, background: float, refine: str, image: Tensor | None) -> None:
    if not 0 <= background <= foreground <= 1:
        raise ValueError(
            f"Seeds need 0 <= background <= foreground <= 1, not background {background} and "
            f"foreground {foreground}."
        )
    if refine not in get_args(Refine):
        raise ValueError(f"Seeds are refined by {', '.join(get_args(Refine))}, not {refine!r}.")
    if refine == "dense-crf":
        _pydensecrf()  # said at once, even where no map is to be refined
    if refine != "none" and image is None:
        raise ValueError(f"To refine seeds by {refine!r}, give the grey images.")
