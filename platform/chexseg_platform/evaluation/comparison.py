"""From the count table to the comparison that ends a run: methods side by side, with intervals.

`compare` reduces a table once, to a `Comparison` of plain numbers; `tables.py` writes
that as text, Markdown, CSV and JSON. Every method is scored on the same resamples, so the paired
differences need no further draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chexseg_platform.evaluation.agreement import Reach, gap_closed, reaches
from chexseg_platform.evaluation.bootstrap import (
    Cluster,
    Estimate,
    Resampling,
    estimates,
    paired,
    replicates,
    resampling,
    support,
    with_mean,
)
from chexseg_platform.evaluation.counts import CountCube
from chexseg_platform.evaluation.metrics import (
    LESS_IS_BETTER,
    METRICS,
    images_behind,
    mean_defined,
    score,
)
from chexseg_platform.evaluation.significance import holm
from chexseg_platform.evaluation.subgroups import SubgroupScore, score_subgroups

SHOWN = ("iou_present", "iou_union", "iou_pooled", "hit_rate")
"""Metrics of the text and Markdown tables, and of subgroups; JSON and CSV hold all."""

MEAN = "Mean"
"""Name of the row that averages over findings."""

EXPERT_ONLY = "expert only"
PSEUDO_ONLY = "pseudo only"
MIX = "mix"
PSEUDO_LABELS = "pseudo-labels"
RADIOLOGISTS = "radiologists"

ORDER = (EXPERT_ONLY, PSEUDO_ONLY, MIX, PSEUDO_LABELS, RADIOLOGISTS)
"""Columns of every table; methods of other names come after the trained ones."""


ENOUGH = 30
FEW_HELD = "95 % intervals held the truth 91 % of the time with 20 such patients, 80 % with 6"
"""Why few patients are named; measured by `tests/benchmarks/evaluation.py`."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which method of the table is which.

    Attributes:
        proposed: the method whose gains are reported.
        references: what it is compared with, in pairs.
        weak: where the gap to radiologists starts: pseudo-masks alone, as in the paper.
        readers: the second radiologists.
    """

    proposed: str = MIX
    references: tuple[str, ...] = (EXPERT_ONLY, PSEUDO_ONLY, PSEUDO_LABELS, RADIOLOGISTS)
    weak: str = PSEUDO_ONLY
    readers: str = RADIOLOGISTS


def roles_among(arms: Sequence[str]) -> Roles:
    """Who is compared with whom: `mix` if there is one, else the last, with all others.

    The gap to radiologists starts at "pseudo only", or at the pseudo-labels where nothing was
    trained on them alone.
    """
    proposed = MIX if MIX in arms else arms[-1]
    others = [arm for arm in arms if arm != proposed]
    first = [arm for arm in (EXPERT_ONLY, PSEUDO_ONLY) if arm in others]
    rest = [arm for arm in others if arm not in first]
    return Roles(
        proposed=proposed,
        references=(*first, *rest, PSEUDO_LABELS, RADIOLOGISTS),
        weak=PSEUDO_ONLY if PSEUDO_ONLY in arms else PSEUDO_LABELS,
    )


@dataclass(frozen=True)
class Score:
    """One method under one metric.

    Attributes:
        findings: K estimates, then the mean over findings.
        averaged: how many findings the mean took; the others had nothing to average.
        seed_sd: standard deviation of the mean over seeds (n − 1); None with one seed.
    """

    findings: tuple[Estimate, ...]
    averaged: int
    seed_sd: float | None


@dataclass(frozen=True)
class Gain:
    """The proposed method against another: paired, K estimates and the mean of each.

    Attributes:
        p: two-sided p-value of each finding's difference, and of the mean's; None where there is
            no interval.
        p_holm: those of the findings corrected for their number; the mean's is its own.
    """

    reference: str
    absolute: tuple[Estimate, ...]
    relative: tuple[Estimate, ...]
    p: tuple[float | None, ...]
    p_holm: tuple[float | None, ...]


@dataclass(frozen=True)
class Comparison:
    """All numbers of a comparison. Dictionaries are keyed by metric, then by method."""

    roles: Roles
    findings: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: dict[str, tuple[int, ...]]
    truth_images: tuple[int, ...]
    images: int
    patients: int
    cluster: Cluster
    clusters: int
    resamples: int
    seed: int
    level: float
    scores: dict[str, dict[str, Score]]
    gains: dict[str, tuple[Gain, ...]]
    gap_closed: dict[str, Estimate]
    reached: dict[str, dict[Reach, tuple[str, ...]]]
    subgroups: tuple[SubgroupScore, ...]
    left_out: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def compare(
    cube: CountCube,
    *,
    roles: Roles | None = None,
    metrics: Sequence[str] | None = None,
    cluster: Cluster = "patient",
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Reduce a cube to the comparison of its methods.

    Methods that a role names and the table lacks (no radiologists, say) are passed over.

    Args:
        metrics: keys of `metrics.METRICS`; all that the table has numbers for by default.
    """
    roles = roles or Roles()
    draws = resampling(cube, cluster=cluster, resamples=resamples, seed=seed)
    chosen = tuple(metrics) if metrics is not None else _measured(cube)
    scores = {metric: _scores(cube, metric, draws, level) for metric in chosen}
    gains = {metric: _gains(cube, metric, draws, roles, level) for metric in chosen}
    return Comparison(
        roles=roles,
        findings=cube.findings,
        methods=_ordered(cube.methods),
        seeds={name: cube.seeds(name) for name in _ordered(cube.methods)},
        truth_images=_truth_images(cube),
        images=len(cube.image_ids),
        patients=len(set(cube.patients)),
        cluster=cluster,
        clusters=draws.clusters,
        resamples=resamples,
        seed=seed,
        level=level,
        scores=scores,
        gains=gains,
        gap_closed=_gaps(cube, chosen, draws, roles, level),
        reached={
            metric: _reached(metric, cube.findings, scores[metric], gains[metric], roles)
            for metric in chosen
        },
        subgroups=tuple(score_subgroups(cube, draws, _shown(chosen), level=level)),
        left_out={name: images for name, images in cube.left_out().items() if images},
        notes=_notes(cube, draws),
    )


def _ordered(methods: Sequence[str]) -> tuple[str, ...]:
    others = ORDER.index(PSEUDO_LABELS) - 0.5
    place = {name: ORDER.index(name) if name in ORDER else others for name in methods}
    return tuple(sorted(methods, key=place.__getitem__))


def _truth_patients(cube: CountCube) -> tuple[int, ...]:
    present: np.ndarray = np.any(cube.known & (cube.truth > 0), axis=0)
    patients = np.array(cube.patients)
    return tuple(len(set(patients[present[:, k]])) for k in range(len(cube.findings)))


def _measured(cube: CountCube) -> tuple[str, ...]:
    optional = {"hit_rate": cube.hit, "hd95": cube.hd95}
    absent = {name for name, values in optional.items() if np.isnan(values).all()}
    return tuple(name for name in METRICS if name not in absent)


def _shown(metrics: Sequence[str]) -> tuple[str, ...]:
    return tuple(metric for metric in SHOWN if metric in metrics)


def _truth_images(cube: CountCube) -> tuple[int, ...]:
    present = (cube.known & (cube.truth > 0)).any(axis=0)
    return tuple(int(count) for count in present.sum(axis=0))


def _scores(cube: CountCube, metric: str, draws: Resampling, level: float) -> dict[str, Score]:
    values = with_mean(replicates(cube, metric, draws))
    behind = support(cube, metric, draws)
    by_run, images = score(cube, metric), images_behind(cube, metric)
    out = {}
    for name in _ordered(cube.methods):
        index = cube.methods.index(name)
        runs = [position for position, run in enumerate(cube.runs) if run[0] == name]
        counted = np.append(images[runs].mean(axis=0), np.nan)
        found = estimates(values[:, index], behind[index], level=level, images=counted)
        out[name] = Score(
            findings=tuple(found),
            averaged=int(np.count_nonzero(~np.isnan(values[0, index, :-1]))),
            seed_sd=_seed_sd(mean_defined(by_run[runs], axis=1)),
        )
    return out


def _seed_sd(means: np.ndarray) -> float | None:
    return float(means.std(ddof=1)) if len(means) > 1 else None


def _gains(
    cube: CountCube, metric: str, draws: Resampling, roles: Roles, level: float
) -> tuple[Gain, ...]:
    if roles.proposed not in cube.methods:
        return ()
    present = [name for name in roles.references if name in cube.methods]
    out = []
    for name in dict.fromkeys(present):
        found = paired(cube, metric, draws, method=roles.proposed, reference=name, level=level)
        corrected = (*holm(found.p[:-1]), found.p[-1])
        out.append(
            Gain(name, tuple(found.absolute), tuple(found.relative), tuple(found.p), corrected)
        )
    return tuple(out)


def _gaps(
    cube: CountCube,
    metrics: Sequence[str],
    draws: Resampling,
    roles: Roles,
    level: float,
) -> dict[str, Estimate]:
    if not {roles.proposed, roles.weak, roles.readers} <= set(cube.methods):
        return {}
    return {
        metric: gap_closed(
            cube,
            metric,
            draws,
            method=roles.proposed,
            weak=roles.weak,
            readers=roles.readers,
            level=level,
        )
        for metric in metrics
    }


def _reached(
    metric: str,
    findings: Sequence[str],
    scores: dict[str, Score],
    gains: Sequence[Gain],
    roles: Roles,
) -> dict[Reach, tuple[str, ...]]:
    against = [gain for gain in gains if gain.reference == roles.readers]
    if not against:
        return {}
    ours, readers = scores[roles.proposed].findings, scores[roles.readers].findings
    rules: tuple[Reach, ...] = ("mean", "interval", "paired")
    return {
        how: tuple(
            name
            for index, name in enumerate(findings)
            if reaches(
                ours[index],
                readers[index],
                against[0].absolute[index],
                how,
                less=metric in LESS_IS_BETTER,
            )
        )
        for how in rules
    }


def _notes(cube: CountCube, draws: Resampling) -> tuple[str, ...]:
    notes = []
    if draws.clusters < 2:
        notes.append(f"One {draws.cluster} only: no interval can be given.")
    least = 2 * len(cube.findings) / (draws.resamples + 1)
    if least >= 0.05 and len(cube.methods) > 1:
        notes.append(
            f"With {draws.resamples:,} resamples no p-value can fall below {least:.2f} after "
            f"correction for {len(cube.findings)} findings: take 1,000."
        )
    without = [
        name for name, count in zip(cube.findings, _truth_images(cube), strict=True) if not count
    ]
    if without:
        notes.append(
            f"The truth shows on no image, so nothing is measured of: {', '.join(without)}."
        )
    few = [
        f"{name} ({count})"
        for name, count in zip(cube.findings, _truth_patients(cube), strict=True)
        if 0 < count < ENOUGH
    ]
    if few and draws.clusters >= 2:
        notes.append(
            f"Intervals are too narrow where the truth shows a finding on fewer than {ENOUGH} "
            f"patients: {', '.join(few)}. In simulations {FEW_HELD}."
        )
    for name, images in cube.left_out().items():
        if images:
            more = ", …" if len(images) > 3 else ""
            first = ", ".join(images[:3])
            number = f"{len(images)} image{'s' if len(images) > 1 else ''}"
            notes.append(f"{name}: {number} not counted ({first}{more}).")
    return tuple(notes)
