"""How soon segmenters learn that start from different weights.

Of a task and a fraction of its training images: the first validation step at which the score
reached 95 % of the best score that any initialisation reached with the same images. One that never
does within its budget counts as infinitely slow, so that a median over seeds can still be taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

RANDOM = "random"
"""The initialisation that steps are compared with."""
SHARE = 0.95
"""Of the best score: what has to be reached."""


class BrokenGrid(ValueError):
    """Trainings or tables that do not make an experiment."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training of the grid.

    Attributes:
        initialisation: the name of its first weights.
        fraction: of the task's training images, in (0, 1]; `images` is how many these are.
        history: its validations in their order, with "step" and "score" (higher is better).
    """

    task: str
    initialisation: str
    fraction: float
    images: int
    seed: int
    history: Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Steps:
    """How soon a training reached the target of its task, fraction and seed.

    Attributes:
        target: 95 % of the best score; None where nobody scored above 0.
        step: None where it was not reached within the budget.
    """

    seed: int
    target: float | None
    step: float | None


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """How soon an initialisation learned a task from a fraction of its images.

    Attributes:
        seeds: one entry a seed.
        ratio: its median over that of "random"; None where one of them is not finite or not there.
    """

    task: str
    fraction: float
    initialisation: str
    seeds: tuple[Steps, ...]
    ratio: float | None

    @property
    def median(self) -> float:
        """Median step over seeds, infinite where half of them never got there."""
        return _median(self.seeds)

    @property
    def reached(self) -> int:
        """How many seeds reached their target."""
        return sum(found.step is not None for found in self.seeds)


def steps_to(history: Sequence[Mapping[str, float]], target: float) -> float | None:
    """Return the first validation step whose score is at least `target`; None where none is."""
    return next((row["step"] for row in history if row.get("score", math.nan) >= target), None)


def best_score(history: Sequence[Mapping[str, float]]) -> float:
    """Return the highest score of a training; 0 where it has none above that."""
    scores = [row.get("score", math.nan) for row in history]
    return max((score for score in scores if score > 0), default=0.0)


def efficiencies(trained: Sequence[Trained]) -> list[Efficiency]:
    """Return how soon each initialisation learned, per task and fraction in their order.

    Raises:
        BrokenGrid: for two trainings of one task, initialisation, fraction and seed.
    """
    _check_once(trained)
    found = []
    for task, fraction in dict.fromkeys((item.task, item.fraction) for item in trained):
        here = [item for item in trained if (item.task, item.fraction) == (task, fraction)]
        steps = {name: _steps(name, here) for name in initialisations(here)}
        random = _median(steps[RANDOM]) if RANDOM in steps else math.inf
        found += [
            Efficiency(
                task=task,
                fraction=fraction,
                initialisation=name,
                seeds=seeds,
                ratio=_ratio(_median(seeds), random),
            )
            for name, seeds in steps.items()
        ]
    return found


def _check_once(trained: Sequence[Trained]) -> None:
    cells = Counter((t.task, t.initialisation, t.fraction, t.seed) for t in trained)
    twice = next((cell for cell, count in cells.items() if count > 1), None)
    if twice:
        task, name, fraction, seed = twice
        raise BrokenGrid(
            f"{task} from {name} with {fraction:.3g} of its images and seed {seed} is there twice: "
            "give each training once"
        )


def _steps(initialisation: str, here: Sequence[Trained]) -> tuple[Steps, ...]:
    """How soon it got to each seed's target, from all trainings of a task and fraction."""
    found = []
    for mine in (item for item in here if item.initialisation == initialisation):
        best = max(best_score(item.history) for item in here if item.seed == mine.seed)
        target = SHARE * best if best else None
        step = None if target is None else steps_to(mine.history, target)
        found.append(Steps(mine.seed, target, step))
    return tuple(found)


def _median(seeds: Sequence[Steps]) -> float:
    return float(median(math.inf if found.step is None else found.step for found in seeds))


def _ratio(mine: float, random: float) -> float | None:
    return mine / random if math.isfinite(mine) and 0 < random < math.inf else None


def initialisations(trained: Sequence[Trained]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.initialisation for item in trained))
