"""From a batch of X-rays to rows of pseudo-labels: one forward a model, nothing kept but masks.

Maps of several classifiers or checkpoints are combined before they are cut: averaged as they are
(as CheXlocalize's ensembles are), or as the settings say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chexseg_platform.config import Saliency
from chexseg_platform.findings import OBSERVATIONS, observation_places
from chexseg_platform.models.boundary import BoundaryNetwork
from chexseg_platform.models.classifier import Classifier
from chexseg_platform.models.precision import precision
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.saliency.boost import (
    edge_aware,
    ignore_band,
    pooled,
    superpixels,
    without_small,
)
from chexseg_platform.saliency.distil import combined, completeness_weight, scaled, trust
from chexseg_platform.saliency.gate import gate
from chexseg_platform.saliency.histogram import split_histogram
from chexseg_platform.saliency.methods import Explained, Method, method_of, probabilities
from chexseg_platform.saliency.pseudotable import (
    IGNORED,
    Images,
    encode,
    image_table,
    map_table,
    mask_table,
    schemas_of,
    status,
)
from chexseg_platform.saliency.seeds import GUIDE_REACH, GUIDE_SMOOTHNESS
from chexseg_platform.saliency.threshold import (
    box_mean,
    heat_to_mask,
    normalise,
    peaks,
    tune,
    upsample,
)
from chexseg_platform.saliency.walk import walk

MAPS_AT_ONCE = 4
"""Copies of full-size maps that averaging and cutting hold at the same time."""


class PseudoLabeller:
    """Classifiers on a device, turning batches into pseudo-label tables.

    Args:
        models: classifiers and their preprocessing; their probabilities are averaged, their maps
            combined.
        settings: how maps become masks.
        device: where the models lie.
        thresholds: (K,), for `threshold: tuned`, from `tune_thresholds`.
        budget: bytes that a method's passes with gradients, and full-size maps, may hold.
        boundary: IRNet's network and its preprocessing, for `refine: irnet`.
        aurocs: of each model, the AUROC of each class, for `combine: auroc`.

    Attributes:
        schemas: of the tables that a call gives, by name, in order.
    """

    def __init__(
        self,
        models: Sequence[tuple[Classifier, Preprocess]],
        settings: Saliency,
        device: torch.device,
        thresholds: Sequence[float] | None = None,
        budget: int = 2 << 30,
        boundary: tuple[BoundaryNetwork, Preprocess] | None = None,
        aurocs: Sequence[Sequence[float]] | None = None,
    ) -> None:
        self.models: list[tuple[Classifier, Preprocess, Method]] = []
        for model, preprocess in models:
            placed = _placed(model, device)
            self.models.append((placed, preprocess, method_of(settings, placed, budget)))
        self.settings, self.device, self.budget = settings, device, budget
        self.places = observation_places(settings.names)
        self.schemas = schemas_of(settings)
        wish = settings.precision
        if wish == "auto" and settings.method == "integrated-gradients":
            # A score that is rounded to bfloat16 has a completeness error of its own.
            wish = "float32"
        self.dtype = precision(wish, device)
        if (settings.refine == "irnet") != (boundary is not None):
            raise ValueError("a boundary network goes with `refine: irnet`, and only with it")
        if (settings.combine == "auroc") and (aurocs is None or len(aurocs) != len(models)):
            raise ValueError("`combine: auroc` goes with the AUROC of every model")
        self.trust_MK = None if aurocs is None else trust(torch.tensor(aurocs, device=device))
        self.boundary = boundary and (boundary[0].to(device).eval(), boundary[1])
        self.method, self.threshold = _method(settings, thresholds)

    def explain(self, images: Images, wanted: NDArray[np.bool_] | None = None) -> Explained:
        """Average maps (B, K, h, w) and probabilities (B, 14) over the models.

        Args:
            wanted: (B, K), which maps are asked for; None for all.

        Returns:
            Of steps and completeness errors the largest among the models, (B, K).
        """
        wanted_BO = torch.zeros(images.labels.shape, dtype=torch.bool)
        wanted_BO[:, self.places] = True if wanted is None else torch.from_numpy(wanted)
        wanted_BO = wanted_BO.to(self.device)
        with self._autocast():
            found = [
                method(input_BCSS, wanted_BO) for _, method, input_BCSS in self._inputs(images)
            ]
        steps, errors = ([item[place] for item in found] for place in (2, 3))
        maps = [item.heat_BKhw[:, self.places] for item in found]
        heat_BKhw = self._fitted(self._combined(maps, errors), images)
        return Explained(
            self._refined(heat_BKhw, images),
            torch.stack([item.probability_BK for item in found]).mean(0),
            _largest(steps, self.places),
            _largest(errors, self.places),
        )

    def _combined(self, maps: Sequence[Tensor], errors: Sequence[Tensor | None]) -> Tensor:
        """Combine the models' maps, each on its scale and as far as it is trusted."""
        side = max(heat_BKhw.shape[-1] for heat_BKhw in maps)
        own = [_on_grid(scaled(heat_BKhw, self.settings.scale), side) for heat_BKhw in maps]
        limit, trust_MBK = self.settings.completeness, None
        known = [error_BK[:, self.places] for error_BK in errors if error_BK is not None]
        if limit is not None and known:
            trust_MBK = completeness_weight(torch.stack(known), limit)
        return combined(own, self.settings.combine, self.trust_MK, trust_MBK)

    def _fitted(self, heat_BKhw: Tensor, images: Images) -> Tensor:
        """Average maps over a box and fit them to the image, where the settings ask for it."""
        wish = self.settings
        if wish.box == 0 and wish.pool == "none":
            return heat_BKhw
        grey, content = self._on_device(images)
        heat_BKSS = _on_grid(heat_BKhw, grey.shape[-1])
        if wish.box > 0:
            heat_BKSS = box_mean(heat_BKSS, wish.box, content)
        if wish.pool == "superpixels":
            region_BSS = superpixels(images.grey, images.content, wish.regions)
            return pooled(heat_BKSS, torch.from_numpy(region_BSS).to(self.device))
        if wish.pool == "edges":
            return edge_aware(heat_BKSS, grey, content, GUIDE_REACH, GUIDE_SMOOTHNESS)
        return heat_BKSS

    def _refined(self, heat_BKhw: Tensor, images: Images) -> Tensor:
        """Spread maps up to the images' boundaries, on IRNet's grid.

        A flat map becomes 0, or boundaries would give it a shape; a map, or all maps of an image
        whose boundaries are not finite, NaN.
        """
        if self.boundary is None:
            return heat_BKhw
        network, preprocess = self.boundary
        grey, content = self._on_device(images)
        with torch.inference_mode(), self._autocast():
            edge_Bhw = network.boundaries(preprocess(grey, content)).float()
        known_B = edge_Bhw.isfinite().flatten(1).all(dim=1)
        finite_BK = heat_BKhw.isfinite().all(dim=3).all(dim=2) & known_B[:, None]
        shaped_BK = finite_BK & (peaks(heat_BKhw, grey.shape[-1], content)[..., 0] >= 0)
        # A fine map is made coarser by averages: between two cells' centres lies evidence, too.
        spread_BKhw = F.interpolate(
            torch.where(shaped_BK[:, :, None, None], heat_BKhw.float(), 0.0),
            size=edge_Bhw.shape[1:],
            mode="bilinear",
            antialias=True,
        )
        wish, edge_Bhw = self.settings.irnet, torch.where(known_B[:, None, None], edge_Bhw, 0.0)
        walked_BKhw = walk(
            spread_BKhw, edge_Bhw, radius=wish.walk_radius, beta=wish.beta, steps=wish.steps
        )
        return walked_BKhw.masked_fill(~finite_BK[:, :, None, None], torch.nan)

    def _on_device(self, images: Images) -> tuple[Tensor, Tensor]:
        """The batch's grey levels and content."""
        grey, content = torch.from_numpy(images.grey), torch.from_numpy(images.content)
        return grey.to(self.device), content.to(self.device)

    def _autocast(self) -> torch.autocast:
        dtype, on = self.dtype or torch.bfloat16, self.dtype is not None
        return torch.autocast(self.device.type, dtype, enabled=on)

    def _inputs(self, images: Images) -> Iterator[tuple[Classifier, Method, Tensor]]:
        """Yield each model with its method and the batch as it wants it."""
        grey, content = self._on_device(images)
        for model, preprocess, method in self.models:
            yield model, method, preprocess(grey, content)

    def wanted(self, images: Images) -> NDArray[np.bool_] | None:
        """Which maps may become masks, for methods that pay for each; None for Grad-CAM."""
        if not self.settings.pays_per_map:
            return None
        if self.settings.gate in ("label", "none"):  # which look at no probability
            unseen = np.zeros((len(images.ids), len(self.places)), np.float32)
            return gate(images.labels, unseen, self.settings)[0]
        with self._autocast():
            each = [probabilities(model, inputs) for model, _, inputs in self._inputs(images)]
        likely = torch.stack(each).mean(0)[:, self.places].cpu().numpy()
        return gate(images.labels, likely, self.settings)[0]

    def __call__(self, images: Images) -> tuple[pa.Table, ...]:
        """Return the batch's mask rows and image rows, and its maps where they are kept."""
        if not images.ids:
            return tuple(schema.empty_table() for schema in self.schemas.values())
        made = [self._label(part) for part in self.cut(images)]
        return tuple(pa.concat_tables(tables) for tables in zip(*made, strict=True))

    def cut(self, images: Images) -> Iterator[Images]:
        """Cut a batch so that the full-size maps of each part fit."""
        size, most = images.grey.shape[-1], 1 << 30
        if self.settings.full_size:
            most = max(1, self.budget // (MAPS_AT_ONCE * len(OBSERVATIONS) * size**2 * 4))
        return images.cut(most)

    def _label(self, images: Images) -> tuple[pa.Table, ...]:
        heat_BKhw, probability_BO, steps, error = self.explain(images, self.wanted(images))
        probability = probability_BO[:, self.places]
        allowed, known = gate(images.labels, probability.cpu().numpy(), self.settings)
        size = images.grey.shape[-1]
        content = torch.from_numpy(images.content).to(self.device)
        cut = heat_to_mask(
            heat_BKhw,
            size,
            self.method,
            threshold=self.threshold,
            content_B4=content,
            allowed_BK=torch.from_numpy(allowed).to(self.device),
        )
        usable = cut.usable_BK.cpu().numpy()
        # A probability that is no number allows nothing, and is the reason why.
        finite_BK = heat_BKhw.isfinite().all(dim=3).all(dim=2) & probability.isfinite()
        finite = finite_BK.cpu().numpy()
        mask_BKSS = without_small(cut.mask_BKSS.cpu().numpy(), self.settings.smallest)
        filled = np.any(mask_BKSS, axis=(2, 3))
        ignored: dict[str, Any] = {}
        if self.settings.ignore:
            band_BKSS = ignore_band(mask_BKSS, self.settings.ignore, images.content)
            ignored[IGNORED] = encode(band_BKSS, np.any(band_BKSS, axis=(2, 3)))
        columns = ignored | {
            "known": known & (usable | ~allowed),
            "allowed": allowed,
            "probability": probability.cpu().numpy(),
            "threshold": cut.threshold_BK.cpu().numpy(),
            "counts": encode(mask_BKSS, filled),
            "peak": peaks(heat_BKhw, size, content).cpu().numpy(),
            "steps": _or_nothing(steps, allowed),
            "error": _or_nothing(error, allowed),
            "status": status(allowed, finite, usable, filled),
        }
        names = self.settings.names
        tables = (
            mask_table(images, columns, names),
            image_table(images, probability_BO.cpu().numpy()),
        )
        if self.settings.maps == "none":
            return tables
        shaped = torch.from_numpy(allowed & usable).to(self.device)
        original = self.settings.maps == "original"
        return *tables, map_table(images, heat_BKhw, shaped, names, original)


def _on_grid(heat_BKhw: Tensor, side: int) -> Tensor:
    return heat_BKhw if heat_BKhw.shape[-1] == side else upsample(heat_BKhw, side)


def tune_thresholds(
    labeller: PseudoLabeller, batches: Sequence[tuple[Images, NDArray[np.bool_]]]
) -> tuple[list[float], list[float]]:
    """Choose each finding's threshold on validation images with expert masks, by pooled IoU.

    Args:
        labeller: explains the images; its own thresholds do not matter.
        batches: images and truth (B, K, S, S).

    Returns:
        (K thresholds, their K IoUs); NaN for a class that no expert drew.
    """
    counts: Tensor | None = None
    for images, truth in _fitting(labeller, batches):
        # As in `heat_to_mask`, only maps of findings that are there are cut.
        there: NDArray[np.bool_] = np.any(truth, axis=(2, 3))
        heat = labeller.explain(images, there).heat_BKhw
        content = torch.from_numpy(images.content).to(labeller.device)
        unit, _ = normalise(upsample(heat, images.grey.shape[-1]), content)
        truth_BKSS = torch.from_numpy(truth).to(labeller.device)
        wanted = torch.from_numpy(there).to(labeller.device)
        found = split_histogram(unit, truth_BKSS, content_B4=content, counted_BK=wanted)
        counts = found if counts is None else counts + found
    if counts is None:
        raise ValueError(
            "saliency.threshold is `tuned`, but no validation image has expert masks. "
            "Add truth to a `valid` table, or set saliency.threshold to otsu."
        )
    tuned = tune(counts)
    return tuned.threshold_K.tolist(), tuned.iou_K.tolist()


def _fitting(
    labeller: PseudoLabeller, batches: Sequence[tuple[Images, NDArray[np.bool_]]]
) -> Iterator[tuple[Images, NDArray[np.bool_]]]:
    for images, truth in batches:
        start = 0
        for part in labeller.cut(images):
            yield part, truth[start : start + len(part.ids)]
            start += len(part.ids)


def _placed(model: Classifier, device: torch.device) -> Classifier:
    # Channels last: on a CPU a forward is 6 % (DenseNet-121) to 18 % (ResNet-18) faster so.
    return model.to(device).to(memory_format=torch.channels_last).eval()


def _method(
    settings: Saliency, thresholds: Sequence[float] | None
) -> tuple[Any, float | Tensor | None]:
    if settings.threshold == "tuned":
        if thresholds is None:
            raise ValueError("tuned thresholds are wanted but none were given")
        return "tuned", torch.tensor(list(thresholds), dtype=torch.float32)
    if settings.threshold == "otsu":
        return "otsu", None
    if settings.threshold == "mass":
        return "mass", settings.mass
    return "fixed", float(settings.threshold)


def _largest(values: Sequence[Tensor | None], columns: list[int]) -> Tensor | None:
    kept = [value[:, columns] for value in values if value is not None]
    return torch.stack(kept).amax(dim=0) if kept else None


def _or_nothing(value: Tensor | None, allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.full(allowed.shape, np.nan, np.float32) if value is None else value.cpu().numpy()
