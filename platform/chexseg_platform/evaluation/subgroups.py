"""Results by sex, age, view and lesion size: for whom does a method work?

A subgroup is a choice of entries of the count cube, and every metric of it is what `metrics.py`
says on these entries alone, in the same resamples of patients. Lesion sizes are thirds a finding:
of the images on which the truth shows it, by the share of the image that it covers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chexseg_platform.evaluation.bootstrap import (
    Estimate,
    Resampling,
    estimates,
    replicates,
    support,
    with_mean,
)
from chexseg_platform.evaluation.counts import CountCube

AGES = ((0, 40, "under 40"), (40, 65, "40 to 64"), (65, 200, "65 and over"))
THIRDS = ("smallest third", "middle third", "largest third")


class Subgroup(NamedTuple):
    """Entries that share a trait: bool (N,), images, or (N, K), images and findings."""

    trait: str
    name: str
    where: np.ndarray


@dataclass(frozen=True)
class SubgroupScore:
    """One subgroup: metric -> method -> mean over findings.

    The mean is of the findings that the truth shows in this subgroup, `findings` of them, so two
    subgroups may rest on different ones.
    """

    trait: str
    name: str
    images: int
    patients: int
    findings: int
    scores: dict[str, dict[str, Estimate]]


def subgroups(cube: CountCube) -> list[Subgroup]:
    """Every subgroup that the data tell apart; a trait with one value tells nothing."""
    groups = [*_named(cube, "sex"), *_ages(cube), *_named(cube, "view"), *_sizes(cube)]
    there = [group for group in groups if group.where.any()]
    values = [group.trait for group in there]
    return [group for group in there if values.count(group.trait) > 1]


def _named(cube: CountCube, trait: str) -> Iterator[Subgroup]:
    values = np.array([value or "" for value in cube.traits[trait]])
    for name in sorted(set(values) - {""}):
        yield Subgroup(trait, str(name), values == name)


def _ages(cube: CountCube) -> Iterator[Subgroup]:
    years = np.array([np.nan if age is None else age for age in cube.traits["age"]], dtype=float)
    for least, below, name in AGES:
        yield Subgroup("age", name, (years >= least) & (years < below))


def _sizes(cube: CountCube) -> Iterator[Subgroup]:
    """Thirds by rank, images of one size in the order of the table, so that thirds are thirds."""
    size = cube.truth.max(axis=0) / cube.pixels[:, None]
    third = np.full(size.shape, -1)
    for k in range(size.shape[1]):
        shown = np.flatnonzero(size[:, k] > 0)
        order = shown[np.argsort(size[shown, k], kind="stable")]
        third[order, k] = np.arange(len(order)) * len(THIRDS) // max(len(order), 1)
    for number, name in enumerate(THIRDS):
        yield Subgroup("lesion", name, third == number)


def score_subgroups(
    cube: CountCube,
    draws: Resampling,
    metrics: Sequence[str],
    *,
    level: float = 0.95,
) -> list[SubgroupScore]:
    """Score every method on every subgroup, in the comparison's own resamples."""
    return [_scored(cube, group, draws, metrics, level) for group in subgroups(cube)]


def _scored(
    cube: CountCube,
    group: Subgroup,
    draws: Resampling,
    metrics: Sequence[str],
    level: float,
) -> SubgroupScore:
    chosen = cube.restricted(group.where)
    read = chosen.known.any(axis=(0, 2))
    shown = (chosen.known & (chosen.truth > 0)).any(axis=(0, 1))
    return SubgroupScore(
        trait=group.trait,
        name=group.name,
        images=int(np.count_nonzero(read)),
        patients=len({cube.patients[index] for index in np.flatnonzero(read)}),
        findings=int(np.count_nonzero(shown)),
        scores={metric: _means(chosen, metric, draws, level) for metric in metrics},
    )


def _means(cube: CountCube, metric: str, draws: Resampling, level: float) -> dict[str, Estimate]:
    means = with_mean(replicates(cube, metric, draws))[..., -1]
    found = estimates(means, support(cube, metric, draws)[:, -1], level=level)
    return dict(zip(cube.methods, found, strict=True))
