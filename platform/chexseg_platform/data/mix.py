"""The mix of expert and pseudo-labelled rows, as a source of row numbers.

Each draw of an epoch is an expert row with probability p, else a pseudo row (CheXseg, section on
semi-supervised training). The draws of an epoch depend on seed and epoch number alone, so a
training resumes anywhere, and every worker computes its own share without talking to others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class MixError(ValueError):
    """The wanted mix cannot be drawn from the rows there are."""


@dataclass(frozen=True)
class Mix:
    """A seeded source of rows: numbers below `expert` are expert rows, the others pseudo rows.

    Args:
        expert: number of expert rows.
        pseudo: number of pseudo rows.
        probability: chance p that a draw is an expert row, in [0, 1].
        draws: draws an epoch; None means `expert + pseudo` of the rows that p allows at all.
        max_repeats: most often that one expert row is drawn in an epoch; None means no cap.
            Draws over the cap become pseudo rows or, where p = 1, are left out.
        seed: of the draws.

    Raises:
        MixError: if p asks for rows that are not there.
    """

    expert: int
    pseudo: int
    probability: float
    draws: int | None = None
    max_repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise MixError(f"expert_probability is {self.probability}; it lies between 0 and 1")
        if self.probability > 0 and self.expert == 0:
            raise MixError(
                f"expert_probability is {self.probability}, but there is no expert-labelled image. "
                "Add masks (truth) to a table of the experiment, or set it to 0."
            )
        if self.probability < 1 and self.pseudo == 0:
            raise MixError(
                f"expert_probability is {self.probability}, but there is no pseudo-labelled image. "
                "Add training images with positive labels, or set it to 1."
            )

    @property
    def length(self) -> int:
        """Draws an epoch."""
        if self.draws is not None:
            wanted = self.draws
        else:
            wanted = self.expert * (self.probability > 0) + self.pseudo * (self.probability < 1)
        if self.max_repeats is not None and self.probability == 1:
            wanted = min(wanted, self.expert * self.max_repeats)
        return wanted

    def epoch(self, number: int) -> np.ndarray:
        """Return the rows of epoch `number` in order: int64, shape (length,)."""
        rng = np.random.default_rng([self.seed, number])
        from_expert = rng.random(self.length) < self.probability
        if self.max_repeats is not None:
            # Draws over the cap go anywhere in the epoch, or its end would hold no expert row.
            draws = rng.permutation(np.flatnonzero(from_expert))
            from_expert[draws[self.expert * self.max_repeats :]] = False
        rows = np.empty(self.length, dtype=np.int64)
        n_expert = int(from_expert.sum())
        rows[from_expert] = _cycle(self.expert, n_expert, rng)
        rows[~from_expert] = self.expert + _cycle(self.pseudo, self.length - n_expert, rng)
        return rows

    def summary(self) -> str:
        """Return one sentence on what an epoch holds, with the repeats of one row."""
        rows = self.epoch(0)
        n_expert = int((rows < self.expert).sum())
        n_pseudo = len(rows) - n_expert
        return (
            f"{len(rows):,} draws an epoch: {n_expert:,} expert ({_times(n_expert, self.expert)}) "
            f"and {n_pseudo:,} pseudo ({_times(n_pseudo, self.pseudo)})"
        )


def _times(draws: int, rows: int) -> str:
    return f"{rows:,} rows {draws / rows:.2f} times each" if rows else "no rows"


def _cycle(rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` row numbers: whole shuffled passes over the rows, then part of one."""
    passes = -(-count // rows) if rows else 0
    if not passes:
        return np.empty(0, dtype=np.int64)
    return np.concatenate([rng.permutation(rows) for _ in range(passes)])[:count]


class Batches:
    """Batches of an endless row source, cut for one of several workers.

    `rows(step)` depends on the step alone. The batch size counts all workers; the last draws of
    an epoch that do not fill a batch are left out.
    """

    def __init__(self, mix: Mix, batch_size: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < world:
            raise MixError(
                f"a batch of {batch_size} cannot be shared by {world} workers; "
                "raise batch_size or lower resources.workers"
            )
        if mix.length < world:
            raise MixError(
                f"an epoch of {mix.length} draws cannot be shared by {world} workers; "
                "add images or lower resources.workers"
            )
        self.mix, self.batch_size, self.rank, self.world = mix, batch_size, rank, world
        self.steps_per_epoch = max(1, mix.length // batch_size)
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def rows(self, step: int) -> np.ndarray:
        """Return this worker's rows of global step `step` (0-based): int64."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self.mix.epoch(epoch))
        batch = self._epoch[1][place * self.batch_size : (place + 1) * self.batch_size]
        return batch[self.rank :: self.world]
