"""Learning masks from a mix of expert and pseudo-labelled images: the task of the segment stage.

Checkpoints and thresholds are chosen on validation patients only: pooled IoU per finding over a
grid of thresholds, its mean over findings is the score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chexseg_platform import config
from chexseg_platform.data.mix import Batches, Mix
from chexseg_platform.data.store import MaskRows, Store
from chexseg_platform.findings import FINDINGS, mirrored
from chexseg_platform.models import checkpoints
from chexseg_platform.models.batch import forward_batch
from chexseg_platform.models.checkpoints import State
from chexseg_platform.models.encoder import load_weights
from chexseg_platform.models.preprocess import Preprocess, preset
from chexseg_platform.models.segmenter import (
    SegmenterSpec,
    build_segmenter,
    check_size,
    dump_segmenter,
    encoder_of,
    load_encoder,
    load_segmenter_weights,
)
from chexseg_platform.training.adapting import (
    adapt,
    merged_state,
    parameter_groups,
    trained_share,
)
from chexseg_platform.training.augment import prepare
from chexseg_platform.training.batches import (
    augment_of,
    chunks,
    content_tensor,
    image_tensor,
    step_generator,
)
from chexseg_platform.training.fit import rank_and_world, sum_over_workers
from chexseg_platform.training.loop import Batch, Group
from chexseg_platform.training.losses import Loss, loss_by_name
from chexseg_platform.training.metrics import PooledIoU
from chexseg_platform.training.weighting import balanced_weights


class Start(NamedTuple):
    """Where first weights come from.

    Attributes:
        kind: "segmenter": all, and its head where `classes` are those of the new one; any other:
            the encoder alone.
        state: of a model, or the folder of an encoder that was fetched.
        holds: what model that is, in words, for whoever takes another.
    """

    kind: str
    state: State | Path
    holds: str = ""
    classes: tuple[str, ...] = ()


def spec_of(settings: config.Segmenter, classes: tuple[str, ...] = FINDINGS) -> SegmenterSpec:
    """Return the model's shape under some settings."""
    return SegmenterSpec(
        classes=classes,
        architecture=settings.architecture,
        encoder=settings.encoder,
        output_stride=settings.output_stride,
        options=settings.options,
    )


def initial_model(
    settings: config.Segmenter,
    size: int,
    seed: int,
    start: Start | None,
    classes: tuple[str, ...] = FINDINGS,
) -> nn.Module:
    """Build a segmenter and give it its first weights.

    Args:
        size: side of its images.
        seed: of the random weights.
        start: None for random weights.
        classes: of the masks.

    Raises:
        WrongArchitecture: naming the first tensor that does not fit, and what would.
    """
    torch.manual_seed(seed)
    model = build_segmenter(spec_of(settings, classes))
    check_size(model, 1, size)
    if start is not None:
        _load_start(model, start, classes)
    return model


def _load_start(model: nn.Module, start: Start, classes: tuple[str, ...]) -> None:
    kind, state, holds, theirs = start
    try:
        if isinstance(state, Path):
            load_weights(encoder_of(model), state)
        elif kind == "segmenter":
            load_segmenter_weights(model, state, head=theirs == classes)
        else:
            load_encoder(model, state)
    except checkpoints.WrongArchitecture as error:
        raise checkpoints.WrongArchitecture(f"{error} {holds}".strip()) from None


def mix_of(settings: config.Segmenter, expert: int, pseudo: int, seed: int) -> Mix:
    """Return the mix of an arm; raises MixError where it cannot be drawn."""
    return Mix(
        expert,
        pseudo,
        settings.expert_probability,
        draws=settings.epoch_images,
        max_repeats=settings.max_repeats,
        seed=seed,
    )


def loss_of(settings: config.Segmenter, items: MaskRows, size: int, device: torch.device) -> Loss:
    """Return the loss with its weights: those of classes follow from the rows to learn from."""
    weight_K = None
    if settings.class_weight == "balanced":
        weight_K = balanced_weights(items, size).to(device)
    return loss_by_name(
        settings.loss, weight_K=weight_K, background_weight=settings.background_weight
    )


class Segmentation:
    """One worker's share of a segmenter's training; see `training.fit.Task`.

    Args:
        settings: of the segmenter.
        store: images.
        expert: expert-labelled rows to learn from.
        pseudo: pseudo-labelled rows to learn from, of the same classes.
        valid: expert-labelled rows for thresholds and choice of checkpoint; may be empty.
        seed: of weights, draws and augmentation.
        device: where the model lies.
        start: first weights, see `initial_model`.
    """

    def __init__(
        self,
        settings: config.Segmenter,
        store: Store,
        *,
        expert: MaskRows,
        pseudo: MaskRows,
        valid: MaskRows,
        seed: int,
        device: torch.device,
        start: Start | None = None,
    ) -> None:
        self.settings, self.store, self.seed, self.device = settings, store, seed, device
        self.rank, self.world = rank_and_world()
        self.items, self.valid = MaskRows.join(expert, pseudo), valid
        self.classes = self.items.classes
        assert valid.classes == self.classes
        self.mirrored = mirrored(self.classes) if settings.augment.flip else None
        self.model = initial_model(settings, store.size, seed, start, self.classes)
        adapt(self.model, settings, seed)
        self.model.to(device)
        self.preprocess: Preprocess = preset("chexpert")
        self.augment = augment_of(settings.augment)
        self.loss_of = loss_of(settings, self.items, store.size, device)
        mix = mix_of(settings, len(expert), len(pseudo), seed)
        self.batches = Batches(mix, settings.batch_size, self.rank, self.world)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.found: dict[str, Any] = fixed_thresholds(settings, self.classes)

    def batch(self, step: int) -> Batch:
        items = self.batches.rows(step)
        rows = self.items.rows[items]
        mask_BKSS, ignored_BKSS = self._masks(self.items, items)
        image_BCSS, moved, flipped_B = prepare(
            image_tensor(self.store, rows, self.device),
            mask_BKSS if ignored_BKSS is None else torch.cat((mask_BKSS, ignored_BKSS), dim=1),
            self.preprocess,
            content_B4=content_tensor(self.store, rows, self.device),
            augment=self.augment,
            generator=step_generator(self.seed, step, self.rank),
        )
        assert moved is not None
        known_BK = torch.from_numpy(self.items.known[items]).to(self.device)
        said = {"mask": moved[:, : len(self.classes)], "known": known_BK}
        if ignored_BKSS is not None:
            said["ignored"] = moved[:, len(self.classes) :]
        if self.mirrored is not None:
            said = {key: _mirror(of, flipped_B, self.mirrored) for key, of in said.items()}
        return {"image": image_BCSS, **said}

    def _masks(self, rows: MaskRows, items: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Return masks of some items and, where any has them, their ignored pixels: bool."""
        mask = torch.from_numpy(rows.decode(items, self.store.size)).to(self.device).bool()
        ignored = rows.decode_ignored(items, self.store.size)
        return mask, None if ignored is None else torch.from_numpy(ignored).to(self.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.loss_of(
            model(batch["image"]), batch["mask"], batch["known"], batch.get("ignored")
        )

    def groups(self) -> list[Group]:
        return parameter_groups(self.model, self.settings, self.store.size)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Pooled IoU per class at its best threshold; their mean is the score.

        Channels that an image does not label and pixels that are ignored are not counted.
        Without validation images, or a class among them, there is no score.
        """
        if not len(self.valid):
            return {}
        # The grid of CheXseg, or one fine enough to hold the threshold that is set.
        bins = 20 if self.settings.threshold == "tuned" else 1000
        grid = PooledIoU(len(self.classes), bins, device=self.device)
        mine = np.arange(len(self.valid))[self.rank :: self.world]
        for items in chunks(mine, forward_batch(self.device, self.store.size)):
            rows = self.valid.rows[items]
            truth, ignored = self._masks(self.valid, items)
            known = torch.from_numpy(self.valid.known[items]).to(self.device)
            content = content_tensor(self.store, rows, self.device)
            probability = predict_batch(
                self.model, self.preprocess, image_tensor(self.store, rows, self.device), content
            )
            grid.update(
                probability, truth, known_BK=known, content_B4=content, ignored_BKSS=ignored
            )
        sum_over_workers(grid.counts_2KT)
        self.found = _found(self.settings, grid, self.classes)
        named = {f"iou {k}": v for k, v in self.found["iou"].items() if v is not None}
        if not named:
            return {}
        mean = float(np.mean(list(named.values())))
        return {"score": mean, "miou": mean, **named}

    def dump(self) -> dict[str, bytes]:
        extra: dict[str, Any] = {"size": self.store.size, **self.found}
        if self.settings.adapt != "full":
            trained, parameters = trained_share(self.model)
            extra |= {"trained parameters": trained, "parameters": parameters}
        spec = spec_of(self.settings, self.classes)
        state = merged_state(self.model)
        return dump_segmenter(self.model, spec, self.preprocess, extra, state=state)


def _mirror(said: Tensor, flipped_B: Tensor, mirrored: Sequence[int]) -> Tensor:
    """Return what is said of each class, (B, K, ...), with the sides of flipped images swapped."""
    flipped = flipped_B.to(said.device).view(-1, *[1] * (said.ndim - 1))
    return torch.where(flipped, said[:, list(mirrored)], said)


def fixed_thresholds(settings: config.Segmenter, classes: Sequence[str]) -> dict[str, Any]:
    """Return the thresholds of a model that has not been validated: as set, or one half."""
    value = 0.5 if settings.threshold == "tuned" else settings.threshold
    return {"thresholds": dict.fromkeys(classes, value)}


def _found(settings: config.Segmenter, grid: PooledIoU, classes: Sequence[str]) -> dict[str, Any]:
    if settings.threshold == "tuned":
        threshold_K, iou_K = grid.best()
    else:
        threshold_K = torch.full((len(classes),), float(settings.threshold))
        iou_K = grid.at(float(settings.threshold))
    ious = [None if math.isnan(value) else value for value in iou_K.tolist()]
    return {
        "thresholds": dict(zip(classes, threshold_K.tolist(), strict=True)),
        "iou": dict(zip(classes, ious, strict=True)),
    }


@torch.inference_mode()
def predict_batch(
    model: nn.Module, preprocess: Preprocess, image_BSS: Tensor, content_B4: Tensor
) -> Tensor:
    """Return mask probabilities of grey images: float32 (B, K, S, S)."""
    model.eval()
    return model(preprocess(image_BSS, content_B4)).float().sigmoid()


def threshold_tensor(extra: Mapping[str, Any], classes: Sequence[str] = FINDINGS) -> Tensor:
    """Return a segmenter's thresholds, float32 (K,), from its checkpoint's `extra`."""
    return torch.tensor([float(extra["thresholds"][name]) for name in classes])
