"""From a batch of X-rays to rows of pseudo-labels: one forward a model, nothing kept but masks.

Maps of several classifiers or checkpoints are averaged before they are cut (as CheXlocalize's
ensembles are), and only then normalised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch import Tensor

from chexseg_platform.config import Saliency
from chexseg_platform.findings import FINDING_TO_OBSERVATION, FINDINGS
from chexseg_platform.models.classifier import Classifier
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.saliency.gate import gate
from chexseg_platform.saliency.methods import Explained, Method, method_of, probabilities
from chexseg_platform.saliency.threshold import (
    heat_to_mask,
    normalise,
    peaks,
    split_histogram,
    tune,
    upsample,
)

MASK_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("finding", pa.string()),
        ("known", pa.bool_()),
        ("allowed", pa.bool_()),
        ("probability", pa.float32()),
        ("threshold", pa.float32()),
        ("counts", pa.string()),
        ("peak_row", pa.int16()),
        ("peak_column", pa.int16()),
        ("steps", pa.int16()),
        ("completeness_error", pa.float32()),
        ("status", pa.string()),
    ]
)
"""A pseudo-label: one image and finding. `counts`: COCO RLE at model size, null without a mask;
`peak_*`: the map's first maximum in the frame, null without a usable map; `steps` and
`completeness_error`: of Integrated Gradients, else null; `status`: "mask",
"empty" (nothing above the threshold), "not allowed", "flat" or "not finite"."""

IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Images:
    """A batch: ids, splits, grey uint8 (B, S, S), content int64 (B, 4), labels (B, 14)."""

    ids: Sequence[str]
    splits: Sequence[str]
    grey: NDArray[np.uint8]
    content: NDArray[np.int64]
    labels: NDArray[np.float32]


class PseudoLabeller:
    """Classifiers on a device, turning batches into pseudo-label tables.

    Args:
        models: classifiers and their preprocessing; probabilities and maps are averaged.
        settings: how maps become masks.
        device: where the models lie.
        thresholds: (10,), for `threshold: tuned`, from `tune_thresholds`.
        rows: most images in one pass of a method that needs several an image.
    """

    def __init__(
        self,
        models: Sequence[tuple[Classifier, Preprocess]],
        settings: Saliency,
        device: torch.device,
        thresholds: Sequence[float] | None = None,
        rows: int = 64,
    ) -> None:
        self.models: list[tuple[Classifier, Preprocess, Method]] = []
        for model, preprocess in models:
            placed = _placed(model, device)
            self.models.append((placed, preprocess, method_of(settings, placed, rows)))
        self.settings, self.device = settings, device
        self.method, self.threshold = _method(settings, thresholds)

    def explain(self, images: Images, wanted: NDArray[np.bool_] | None = None) -> Explained:
        """Average maps (B, 10, h, w) and probabilities (B, 14) over the models.

        Args:
            wanted: (B, 10), which maps are asked for; None for all.

        Returns:
            Of steps and completeness errors the largest among the models, (B, 10).
        """
        wanted_BO = torch.zeros(images.labels.shape, dtype=torch.bool)
        columns = list(FINDING_TO_OBSERVATION)
        wanted_BO[:, columns] = True if wanted is None else torch.from_numpy(wanted)
        wanted_BO = wanted_BO.to(self.device)
        found = [
            method(input_BCSS, wanted_BO)
            for (_, _, method), input_BCSS in zip(self.models, self._inputs(images), strict=True)
        ]
        steps, errors = ([item[place] for item in found] for place in (2, 3))
        return Explained(
            torch.stack([item.heat_BKhw[:, columns] for item in found]).mean(0),
            torch.stack([item.probability_BK for item in found]).mean(0),
            _largest(steps, columns),
            _largest(errors, columns),
        )

    def _inputs(self, images: Images) -> Iterator[Tensor]:
        grey = torch.from_numpy(images.grey).to(self.device)
        content = torch.from_numpy(images.content).to(self.device)
        for _, preprocess, _ in self.models:
            yield preprocess(grey, content)

    def _wanted(self, images: Images) -> NDArray[np.bool_] | None:
        """Which maps may become masks, for methods that pay for each; None for Grad-CAM."""
        if self.settings.method == "grad-cam":
            return None
        if self.settings.gate in ("label", "none"):  # which look at no probability
            unseen = np.zeros((len(images.ids), len(FINDINGS)), np.float32)
            return gate(images.labels, unseen, self.settings)[0]
        each = [
            probabilities(model, input_BCSS)
            for (model, _, _), input_BCSS in zip(self.models, self._inputs(images), strict=True)
        ]
        likely = torch.stack(each).mean(0)[:, list(FINDING_TO_OBSERVATION)].cpu().numpy()
        return gate(images.labels, likely, self.settings)[0]

    def __call__(self, images: Images) -> tuple[pa.Table, pa.Table]:
        """Return the batch's mask rows and image rows (MASK_SCHEMA, IMAGE_SCHEMA)."""
        heat_BKhw, probability_BO, steps, error = self.explain(images, self._wanted(images))
        probability = probability_BO[:, list(FINDING_TO_OBSERVATION)]
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
        finite = heat_BKhw.isfinite().all(dim=3).all(dim=2).cpu().numpy()
        mask_BKSS = cut.mask_BKSS.cpu().numpy()
        filled = np.any(mask_BKSS, axis=(2, 3))
        columns = {
            "known": known & (usable | ~allowed),
            "allowed": allowed,
            "probability": probability.cpu().numpy(),
            "threshold": cut.threshold_BK.cpu().numpy(),
            "counts": _encode(mask_BKSS, filled),
            "peak": peaks(heat_BKhw, size, content).cpu().numpy(),
            "steps": _or_nothing(steps, allowed),
            "error": _or_nothing(error, allowed),
            "status": _status(allowed, finite, usable, filled),
        }
        return _mask_table(images, columns), _image_table(images, probability_BO.cpu().numpy())


def tune_thresholds(
    labeller: PseudoLabeller, batches: Sequence[tuple[Images, NDArray[np.bool_]]]
) -> tuple[list[float], list[float]]:
    """Choose each finding's threshold on validation images with expert masks, by pooled IoU.

    Args:
        labeller: explains the images; its own thresholds do not matter.
        batches: images and truth (B, 10, S, S).

    Returns:
        (10 thresholds, their 10 IoUs); NaN for a finding that no expert drew.
    """
    counts: Tensor | None = None
    for images, truth in batches:
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
    return "fixed", float(settings.threshold)


def _encode(mask_BKSS: NDArray[np.bool_], filled: NDArray[np.bool_]) -> list[list[str | None]]:
    """COCO counts of the masks that hold a pixel, None for the others."""
    out: list[list[str | None]] = [[None] * mask_BKSS.shape[1] for _ in mask_BKSS]
    places = np.argwhere(filled)
    if len(places):
        # Masks one after the other, each down its columns: what the encoder wants, in one copy.
        stack = np.ascontiguousarray(mask_BKSS[filled].transpose(0, 2, 1)).view(np.uint8)
        for (image, k), item in zip(places, coco.encode(stack.transpose(2, 1, 0)), strict=True):
            out[image][k] = item["counts"].decode()
    return out


def _largest(values: Sequence[Tensor | None], columns: list[int]) -> Tensor | None:
    kept = [value[:, columns] for value in values if value is not None]
    return torch.stack(kept).amax(dim=0) if kept else None


def _or_nothing(value: Tensor | None, allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.full(allowed.shape, np.nan, np.float32) if value is None else value.cpu().numpy()


def _nullable(values: NDArray[np.float32], type_: pa.DataType) -> pa.Array:
    """A column of numbers, null where they are NaN."""
    return pa.array(values.ravel(), pa.float32(), from_pandas=True).cast(type_)


def _status(
    allowed: NDArray[np.bool_],
    finite: NDArray[np.bool_],
    usable: NDArray[np.bool_],
    filled: NDArray[np.bool_],
) -> NDArray[np.str_]:
    conditions = [~allowed, ~finite, ~usable, filled]
    return np.select(conditions, ["not allowed", "not finite", "flat", "mask"], default="empty")


def _mask_table(images: Images, columns: Mapping[str, Any]) -> pa.Table:
    batch, classes = columns["known"].shape
    peak = columns["peak"].reshape(-1, 2)
    threshold = columns["threshold"].ravel()
    return pa.table(
        {
            "image_id": pa.array(np.repeat(np.array(images.ids, dtype=object), classes)),
            "split": pa.array(np.repeat(np.array(images.splits, dtype=object), classes)),
            "finding": pa.array(list(FINDINGS) * batch),
            "known": pa.array(columns["known"].ravel()),
            "allowed": pa.array(columns["allowed"].ravel()),
            "probability": pa.array(columns["probability"].ravel().astype(np.float32)),
            "threshold": pa.array(threshold.astype(np.float32), mask=np.isnan(threshold)),
            "counts": pa.array([run for row in columns["counts"] for run in row], pa.string()),
            "peak_row": pa.array(peak[:, 0].astype(np.int16), mask=peak[:, 0] < 0),
            "peak_column": pa.array(peak[:, 1].astype(np.int16), mask=peak[:, 1] < 0),
            "steps": _nullable(columns["steps"], pa.int16()),
            "completeness_error": _nullable(columns["error"], pa.float32()),
            "status": pa.array(columns["status"].ravel().tolist()),
        },
        schema=MASK_SCHEMA,
    )


def _image_table(images: Images, probabilities: NDArray[np.float32]) -> pa.Table:
    return pa.table(
        {
            "image_id": list(images.ids),
            "split": list(images.splits),
            "probabilities": probabilities.astype(np.float32).tolist(),
        },
        schema=IMAGE_SCHEMA,
    )
