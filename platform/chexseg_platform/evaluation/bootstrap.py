"""Bootstrap intervals of every metric, finding and method at once.

A resample draws clusters with replacement: patients, since two views of one patient are not two
independent observations, or images, as CheXlocalize's own evaluation does. Drawing is a vector
of whole-number weights, one a cluster; and as every metric is a ratio of two sums over images
(`metrics.py`), all resamples of it are two matrix products and a division, without a loop:

    value[b] = (weights[b] @ numerator) / (weights[b] @ denominator)

All methods see the same resamples, which makes their differences paired.

Several seeds of a method: within each resample the metric is taken for every seed, then averaged
over seeds, finding by finding, then over findings. The interval therefore speaks of other
patients, not of other trainings; the spread over seeds is reported beside it.

Letters: B resamples, C clusters, R runs, M methods, N images, K findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from chexseg_platform.evaluation.counts import CountCube
from chexseg_platform.evaluation.metrics import METRICS, Terms, mean_defined, ratio
from chexseg_platform.evaluation.significance import p_values

Cluster = Literal["patient", "image"]


class BadResampling(ValueError):
    """A bootstrap that cannot be done as asked."""


@dataclass(frozen=True)
class Resampling:
    """Draws of clusters, shared by everything that is compared.

    Attributes:
        cluster: what is drawn.
        codes: int (N,), the cluster of each image.
        weights: float64 (1 + B, C); row 0 is all ones, the data as they are, so that a point
            estimate and its resamples are computed by the same lines.
        seed: of the draws.
    """

    cluster: Cluster
    codes: np.ndarray
    weights: np.ndarray
    seed: int

    @property
    def clusters(self) -> int:
        """Number of clusters, C."""
        return self.weights.shape[1]

    @property
    def resamples(self) -> int:
        """Number of resamples, B."""
        return self.weights.shape[0] - 1


def resampling(
    cube: CountCube, *, cluster: Cluster = "patient", resamples: int = 1000, seed: int = 0
) -> Resampling:
    """Draw the resamples of a cube's patients or images.

    Raises:
        BadResampling: for another cluster or fewer than two resamples.
    """
    if cluster not in ("patient", "image"):
        raise BadResampling(f"Resample by 'patient' or 'image', not by {cluster!r}.")
    if resamples < 2:
        raise BadResampling(f"{resamples} resamples give no interval: ask for 1000.")
    names = cube.patients if cluster == "patient" else cube.image_ids
    order = {name: code for code, name in enumerate(dict.fromkeys(names))}
    draws = np.random.default_rng(seed).integers(0, len(order), (resamples, len(order)))
    weights = np.concatenate([np.ones((1, len(order))), weights_of(draws, len(order))])
    return Resampling(cluster, np.array([order[name] for name in names]), weights, seed)


def weights_of(draws: np.ndarray, clusters: int) -> np.ndarray:
    """How often each cluster was drawn: int (B, any) indices -> float64 (B, clusters)."""
    resamples = draws.shape[0]
    flat = draws + clusters * np.arange(resamples)[:, None]
    counts = np.bincount(flat.reshape(-1), minlength=resamples * clusters)
    return counts.reshape(resamples, clusters).astype(np.float64)


def replicate(terms: Terms, draws: Resampling) -> np.ndarray:
    """A ratio in every resample: summands (R, N, K) -> float64 (1 + B, R, K), row 0 the data."""
    return ratio(_weighted(terms.numerator, draws), _weighted(terms.denominator, draws))


def _weighted(values: np.ndarray, draws: Resampling) -> np.ndarray:
    runs, _, findings = values.shape
    sums = np.zeros((draws.clusters, runs * findings))
    np.add.at(sums, draws.codes, values.transpose(1, 0, 2).reshape(-1, runs * findings))
    return (draws.weights @ sums).reshape(-1, runs, findings)


def replicates(cube: CountCube, metric: str, draws: Resampling) -> np.ndarray:
    """A metric of each method, seeds averaged: float64 (1 + B, M, K), row 0 the data.

    A resample without an image on which the truth shows a finding says nothing of it, whatever a
    method draws (rule 5 of `metrics.py`): NaN for every method alike.
    """
    values = replicate(METRICS[metric](cube), draws)
    means = [mean_defined(values[:, _runs_of(cube, name)], axis=1) for name in cube.methods]
    shown = _shown(cube, draws)[:, None]
    return np.where(shown, np.stack(means, axis=1), np.nan)


def _shown(cube: CountCube, draws: Resampling) -> np.ndarray:
    """Whether the truth shows each finding on an image of each resample: bool (1 + B, K)."""
    there = (cube.known & (cube.truth > 0)).any(axis=0)
    by_cluster = np.zeros((draws.clusters, len(cube.findings)))
    np.add.at(by_cluster, draws.codes, there)
    return draws.weights @ by_cluster > 0


def support(cube: CountCube, metric: str, draws: Resampling) -> np.ndarray:
    """Clusters that say anything about each method and finding, and about any: int (M, K + 1).

    Of a finding no more than those on which the truth shows it: false alarms alone say nothing of
    how much it varies.
    """
    behind = METRICS[metric](cube).denominator > 0
    there = np.any(cube.known & (cube.truth > 0), axis=0)
    shown = _clusters(cube, draws, np.asarray(there)).sum(axis=0)
    rows = []
    for name in cube.methods:
        said = np.any(behind[_runs_of(cube, name)], axis=0)
        found = _clusters(cube, draws, np.asarray(said))
        rows.append([*np.minimum(found.sum(axis=0), shown), found.any(axis=1).sum()])
    return np.array(rows)


def _clusters(cube: CountCube, draws: Resampling, where: np.ndarray) -> np.ndarray:
    """Whether any image of each cluster has each finding: (N, K) -> bool (C, K)."""
    found = np.zeros((draws.clusters, len(cube.findings)), dtype=bool)
    np.logical_or.at(found, draws.codes, where)
    return found


def with_mean(values: np.ndarray) -> np.ndarray:
    """Append the mean over findings as a last column: (1 + B, ..., K) -> (1 + B, ..., K + 1).

    The mean is of the findings that the data (row 0) define, in every resample of these same
    ones; NaN where a resample lacks one of them. A mean over whatever a resample happens to hold
    would be another quantity each time: rare findings are the ones that drop out.
    """
    fixed = ~np.isnan(values[:1])
    total = np.where(fixed, values, 0.0).sum(axis=-1)
    return np.concatenate([values, ratio(total, fixed.sum(axis=-1))[..., None]], axis=-1)


def difference(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paired difference and relative gain of two methods' replicates.

    The mean is taken over the findings that both have, or two methods with different findings
    undefined would be compared on different findings.

    Args:
        first, second: (1 + B, K) of the same resamples.

    Returns:
        `first - second` and `first / second - 1`, each (1 + B, K + 1) with the mean last. The
        gain is NaN where `second` is 0.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    mine = with_mean(np.where(both, first, np.nan))
    theirs = with_mean(np.where(both, second, np.nan))
    return mine - theirs, ratio(mine, theirs) - 1


def interval(
    replicates: np.ndarray, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower end, upper end and number of defined resamples, along the first axis.

    Percentiles, linear between order statistics. Resamples in which the value is undefined (no
    image of a rare finding was drawn) are left out.

    Args:
        replicates: (B, ...), without the row of the data; NaN where undefined.
    """
    ordered = np.sort(replicates, axis=0)
    defined = np.count_nonzero(~np.isnan(ordered), axis=0)
    tail = (1 - level) / 2
    low = _order_statistic(ordered, defined, tail)
    return low, _order_statistic(ordered, defined, 1 - tail), defined


def _order_statistic(ordered: np.ndarray, defined: np.ndarray, share: float) -> np.ndarray:
    last = np.maximum(defined - 1, 0)
    position = share * last
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, last)
    lower = np.take_along_axis(ordered, below[None], axis=0)[0]
    upper = np.take_along_axis(ordered, above[None], axis=0)[0]
    return lower + (position - below) * (upper - lower)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: NaN where nothing can be averaged.
        low, high: ends of the interval; None where none can be given, that is when fewer than
            two patients (or images) say anything about the value.
        images: images behind the value, averaged over seeds; None where that has no meaning.
        undefined: resamples in which the value was undefined and which the interval leaves out.
    """

    value: float
    low: float | None = None
    high: float | None = None
    images: float | None = None
    undefined: int = 0


def estimates(
    replicates: np.ndarray,
    support: np.ndarray,
    *,
    level: float = 0.95,
    images: np.ndarray | None = None,
) -> list[Estimate]:
    """Turn replicates (1 + B, K) of one method or difference into K estimates.

    Args:
        support: int (K,), clusters behind each; below two there is no interval.
        images: float (K,), images behind each.
    """
    low, high, defined = interval(replicates[1:], level=level)
    resamples = replicates.shape[0] - 1
    out = []
    for index, value in enumerate(replicates[0]):
        behind = None if images is None or np.isnan(images[index]) else float(images[index])
        if support[index] < 2 or defined[index] < 2 or np.isnan(value):
            out.append(Estimate(float(value), images=behind))
            continue
        ends = float(low[index]), float(high[index])
        out.append(Estimate(float(value), *ends, behind, resamples - int(defined[index])))
    return out


class Paired(NamedTuple):
    """Two methods compared in the same resamples: K + 1 of each, the mean over findings last.

    `p` is two-sided, of one finding alone (`significance.py`); None where there is no interval.
    """

    absolute: list[Estimate]
    relative: list[Estimate]
    p: list[float | None]


def paired(
    cube: CountCube,
    metric: str,
    draws: Resampling,
    *,
    method: str,
    reference: str,
    level: float = 0.95,
) -> Paired:
    """Paired difference, relative gain and p-value of two methods.

    All are taken on the entries that every run of both methods has, in the same resamples.
    """
    chosen = cube.select([method, reference]).aligned()
    values = replicates(chosen, metric, draws)
    first, second = (values[:, chosen.methods.index(name)] for name in (method, reference))
    behind = support(chosen, metric, draws).min(axis=0)
    absolute, relative = difference(first, second)
    found = estimates(absolute, behind, level=level)
    p = [
        None if estimate.low is None else float(value)
        for estimate, value in zip(found, p_values(absolute[1:]), strict=True)
    ]
    return Paired(found, estimates(relative, behind, level=level), p)


def _runs_of(cube: CountCube, method: str) -> list[int]:
    return [index for index, (name, _) in enumerate(cube.runs) if name == method]
