"""Learning boundaries from the confident regions of saliency maps: IRNet's task.

Two cells of one region have no boundary between them, a cell of the finding and one of the
background have one somewhere on the line that joins them (Ahn et al. 2019, equations 5 to 8). The
affinity of two cells is one minus the strongest boundary on that line (saliency/walk.py), so it is
the sigmoid of minus the largest logit, and its logarithm never overflows. Displacements of two
cells of a finding differ by what lies between the cells, those of two background cells by nothing
(equations 2 to 4).

Every mean is over pairs: all findings count alike, as far as they have seeds. Nothing of all pairs
at once is kept: a step goes through the offsets of a half plane, and the backward pass does so
again.

Shapes: B images, K findings, M maps with seeds, S side, h x w cells of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from chexseg_platform import config
from chexseg_platform.data import masks
from chexseg_platform.data.mix import Batches, Mix
from chexseg_platform.data.store import Store
from chexseg_platform.findings import FINDINGS
from chexseg_platform.models.batch import forward_batch
from chexseg_platform.models.boundary import (
    STRIDE,
    BoundaryNetwork,
    BoundarySpec,
    build_boundary,
    dump_boundary,
)
from chexseg_platform.models.checkpoints import State
from chexseg_platform.models.encoder import load_weights
from chexseg_platform.models.preprocess import Preprocess, preset
from chexseg_platform.models.segmenter import load_encoder
from chexseg_platform.saliency.seeds import to_cells
from chexseg_platform.saliency.walk import Offset, neighbours, strongest, windows
from chexseg_platform.training.augment import prepare
from chexseg_platform.training.batches import (
    augment_of,
    chunks,
    content_tensor,
    image_tensor,
    step_generator,
)
from chexseg_platform.training.classification import NothingToLearn
from chexseg_platform.training.fit import rank_and_world, sum_over_workers
from chexseg_platform.training.loop import Batch, Group, one_group

TERMS = ("foreground", "background", "between", "foreground displaced", "background displaced")
PAIRS_OF_TERM = (0, 1, 2, 0, 1)
WEIGHTS = (0.5, 0.5, 1.0, 1.0, 1.0)
BOUNDARY_TERMS = 3
"""The first ones are about boundaries; displacements share no weight with them."""


@dataclass(frozen=True)
class SeedRows:
    """Seeds of some images at model size, kept run-length encoded until a batch needs them.

    Attributes:
        rows: int64 (N,), the images' rows in the store.
        foreground: per image, finding -> COCO counts; absent means none.
        background: alike.
    """

    rows: NDArray[np.int64]
    foreground: tuple[Mapping[str, str], ...]
    background: tuple[Mapping[str, str], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def decode(self, items: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
        """Return seeds of the given items: bool (B, 20, S, S), foreground of all findings first."""
        out = np.zeros((len(items), 2 * len(FINDINGS), size, size), dtype=bool)
        for place, item in enumerate(items):
            for first, kind in ((0, self.foreground), (len(FINDINGS), self.background)):
                for name, counts in kind[item].items():
                    out[place, first + FINDINGS.index(name)] = masks.decode(counts, size, size)
        return out

    @staticmethod
    def empty() -> SeedRows:
        return SeedRows(np.empty(0, np.int64), (), ())


def spec_of(settings: config.IRNet, classifier: config.Classifier) -> BoundarySpec:
    """Return the network's shape under some settings."""
    return BoundarySpec(
        encoder=settings.encoder or classifier.encoder,
        output_stride=settings.output_stride or classifier.output_stride,
    )


def initial_model(
    spec: BoundarySpec, seed: int, start: State | Path | str | None
) -> BoundaryNetwork:
    """Build a boundary network and give its encoder its weights.

    Args:
        seed: of the random weights.
        start: a classifier's state; or a folder of `fetch_weights`; None for a random encoder.

    Raises:
        WrongArchitecture: naming the first tensor that does not fit.
    """
    torch.manual_seed(seed)
    model = build_boundary(spec)
    if isinstance(start, str | Path):
        load_weights(model.encoder, start)
    elif start is not None:
        load_encoder(model, start)
    return model


class Boundary:
    """One worker's share of a boundary network's training; see `training.fit.Task`.

    Args:
        settings: of IRNet.
        store: images.
        spec: the network's shape, see `spec_of`.
        seeds: to learn from.
        valid: seeds of other images for the choice of checkpoint; may be empty.
        seed: of weights, order and augmentation.
        device: where the model lies.
        start: the encoder's weights, see `initial_model`.
        preprocess: what the encoder was trained with; by default "chexpert".

    Raises:
        NothingToLearn: if no image has foreground and background.
    """

    def __init__(
        self,
        settings: config.IRNet,
        store: Store,
        *,
        spec: BoundarySpec,
        seeds: SeedRows,
        valid: SeedRows,
        seed: int,
        device: torch.device,
        start: State | Path | str | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        check_seeds(seeds)
        self.settings, self.store, self.seed, self.device = settings, store, seed, device
        self.rank, self.world = rank_and_world()
        self.model = initial_model(spec, seed, start).to(device)
        self.preprocess = preprocess or preset("chexpert", spec.in_channels)
        self.augment = augment_of(settings.augment)
        self.seeds, self.valid = seeds, valid
        mix = Mix(len(seeds), 0, 1.0, seed=seed)
        self.batches = Batches(mix, settings.batch_size, self.rank, self.world)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.last_metrics: dict[str, float] = {}

    def batch(self, step: int) -> Batch:
        items = self.batches.rows(step)
        rows = self.seeds.rows[items]
        image_BCSS, seed_BKSS, _ = prepare(
            image_tensor(self.store, rows, self.device),
            torch.from_numpy(self.seeds.decode(items, self.store.size)).to(self.device),
            self.preprocess,
            content_B4=content_tensor(self.store, rows, self.device),
            augment=self.augment,
            generator=step_generator(self.seed, step, self.rank),
        )
        assert seed_BKSS is not None
        return {"image": image_BCSS, **_cells(seed_BKSS)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logit, displacement = model(batch["image"])
        return boundary_loss(
            logit, displacement, batch["foreground"], batch["background"], self.settings.radius
        )

    def groups(self) -> list[Group]:
        return one_group(self.model)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss on the validation images; exp(-its boundary part), 0 to 1, is the score.

        The released code keeps the checkpoint of the best training loss; this one is of images
        that were not learned from. Displacements move no boundary, so they have no say. Without
        validation images, or a pair among them, there is no score.
        """
        self.last_metrics = {}
        sums_T = torch.zeros(5, device=self.device, dtype=torch.float64)
        pairs_P = torch.zeros(3, device=self.device, dtype=torch.float64)
        mine = np.arange(len(self.valid))[self.rank :: self.world]
        for items in chunks(mine, forward_batch(self.device, self.store.size)):
            sums, pairs = self._validation_sums(items)
            sums_T += sums
            pairs_P += pairs
        sum_over_workers(sums_T)
        sum_over_workers(pairs_P)
        if float(pairs_P.sum()) == 0:
            return {}
        term_T = weighted_means(sums_T, pairs_P)
        edge = float(term_T[:BOUNDARY_TERMS].sum())
        self.last_metrics = {
            "boundary loss": edge,
            "displacement loss": float(term_T[BOUNDARY_TERMS:].sum()),
            "score": math.exp(-edge),
        }
        return self.last_metrics

    def _validation_sums(self, items: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        rows = self.valid.rows[items]
        grey, content = (f(self.store, rows, self.device) for f in (image_tensor, content_tensor))
        self.model.eval()
        logit, displacement = self.model(self.preprocess(grey, content))
        seeds = torch.from_numpy(self.valid.decode(items, self.store.size)).to(self.device)
        return pair_sums(logit, displacement, **_cells(seeds), radius=self.settings.radius)

    def dump(self) -> dict[str, bytes]:
        extra: dict[str, Any] = {"size": self.store.size, "metrics": self.last_metrics}
        return dump_boundary(self.model, self.preprocess, extra)


def seed_rows(store: Store, table: pa.Table, split: str) -> SeedRows:
    """Return the seeds of a split as rows of the store; images without any are left out.

    Args:
        table: of `saliency.seedlabel.SEED_SCHEMA`, any order.
    """
    wanted = set(store.rows(split).tolist())
    found: dict[int, tuple[dict[str, str], dict[str, str]]] = {}
    columns = ("image_id", "finding", "foreground", "background")
    for image_id, finding, *counts in zip(*(table[n].to_pylist() for n in columns), strict=True):
        row = store.index.get(image_id, -1)
        for kind, run in enumerate(counts):
            if row in wanted and run is not None:
                found.setdefault(row, ({}, {}))[kind][finding] = run
    rows = sorted(found)
    return SeedRows(
        np.array(rows, dtype=np.int64),
        tuple(found[row][0] for row in rows),
        tuple(found[row][1] for row in rows),
    )


def check_seeds(seeds: SeedRows) -> None:
    """NothingToLearn unless some finding of some image has foreground and background."""
    pairs = zip(seeds.foreground, seeds.background, strict=True)
    if not any(set(front) & set(back) for front, back in pairs):
        raise NothingToLearn(
            "no image has both foreground and background seeds of a finding, so no boundary can "
            "be learned: loosen irnet.foreground and irnet.background, or look at the maps"
        )


def boundary_loss(
    logit_B1hw: Tensor,
    displacement_B2hw: Tensor,
    foreground_BKhw: Tensor,
    background_BKhw: Tensor,
    radius: int = 10,
) -> Tensor:
    """IRNet's loss: boundaries (equation 8) and displacements (equations 3 and 4), added.

    Args:
        logit_B1hw: of a boundary at each cell.
        displacement_B2hw: (down, right), in cells.
        foreground_BKhw, background_BKhw: bool, the seeds of each finding.
        radius: pairs nearer than this many cells count; those that the grid holds.

    Returns:
        A scalar. Each term is a mean over its pairs; one without a pair is 0.
    """
    return weighted_means(
        *pair_sums(logit_B1hw, displacement_B2hw, foreground_BKhw, background_BKhw, radius)
    ).sum()


def weighted_means(sums_T: Tensor, pairs_P: Tensor) -> Tensor:
    """Sums and numbers of pairs -> the loss's five terms (TERMS), weighted; they add up to it."""
    mean_T = sums_T / pairs_P[list(PAIRS_OF_TERM)].clamp(min=1.0)
    return mean_T * torch.tensor(WEIGHTS, dtype=mean_T.dtype, device=mean_T.device)


def pair_sums(
    logit_B1hw: Tensor,
    displacement_B2hw: Tensor,
    foreground: Tensor,
    background: Tensor,
    radius: int,
) -> tuple[Tensor, Tensor]:
    """Sum the five terms of the loss over pairs, and count the pairs.

    Returns:
        sums (5,), as in TERMS, and pairs (3,): both foreground, both background, one of each;
        float64, for there may be more pairs than float32 can count.
    """
    logit_Bhw, displacement = logit_B1hw[:, 0].float(), displacement_B2hw.float()
    # Most findings of most images have no map; only the others cost anything.
    image_M, class_M = (foreground | background).flatten(2).any(dim=2).nonzero(as_tuple=True)
    front_Mhw, back_Mhw = foreground[image_M, class_M], background[image_M, class_M]
    sums_T = logit_Bhw.new_zeros(5, dtype=torch.float64)
    pairs_P = logit_Bhw.new_zeros(3, dtype=torch.float64)
    offsets = neighbours(radius)
    for number, near, far in windows(radius, *logit_Bhw.shape[1:]):
        sums, pairs = checkpoint(
            _offset_sums,
            offsets[number],
            strongest(logit_Bhw, offsets[number]),
            (displacement[near], displacement[far]),
            (front_Mhw[near], front_Mhw[far]),
            (back_Mhw[near], back_Mhw[far]),
            image_M,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        sums_T, pairs_P = sums_T + sums, pairs_P + pairs
    return sums_T, pairs_P


def _offset_sums(
    offset: Offset,
    edge_Bhw: Tensor,
    displaced: tuple[Tensor, Tensor],
    front: tuple[Tensor, Tensor],
    back: tuple[Tensor, Tensor],
    image_M: Tensor,
) -> tuple[Tensor, Tensor]:
    """Sums and numbers of the pairs that one offset joins, of the windows that it joins."""

    def findings(pair_Mhw: Tensor) -> Tensor:
        """In how many findings each pair of cells counts: float (B, h, w)."""
        return torch.zeros_like(edge_Bhw).index_add_(0, image_M, pair_Mhw.to(edge_Bhw.dtype))

    both_front, both_back = findings(front[0] & front[1]), findings(back[0] & back[1])
    apart = findings(front[0] & back[1] | back[0] & front[1])
    joined = softplus(edge_Bhw)  # -log of the affinity
    down, right = (displaced[0] - displaced[1]).unbind(dim=1)
    terms = (
        both_front * joined,
        both_back * joined,
        apart * (joined - edge_Bhw),  # softplus(-x) = softplus(x) - x
        both_front * ((down - offset[0]).abs() + (right - offset[1]).abs()),
        both_back * (down.abs() + right.abs()),
    )
    sums_T = torch.stack([term.sum(dtype=torch.float64) for term in terms])
    pairs = [number.sum(dtype=torch.float64) for number in (both_front, both_back, apart)]
    return sums_T, torch.stack(pairs)


def _cells(seed_BKSS: Tensor) -> dict[str, Tensor]:
    """Seeds as `SeedRows.decode` gives them -> foreground and background on the network's grid."""
    front, back = to_cells(seed_BKSS, STRIDE).chunk(2, dim=1)
    return {"foreground": front, "background": back}
