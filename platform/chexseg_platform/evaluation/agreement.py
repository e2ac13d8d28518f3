"""How near a method comes to radiologists who agree with each other only so far.

The second readers' masks are scored against the truth like any method, so the radiologists are a
method of the count table. Two figures follow.

Share of the gap closed. (method − weak) / (radiologists − weak), where weak is training on
pseudo-masks alone. The published 57.2 % is this figure, with CheXseg as the method: it is the
part of the way from saliency supervision to radiologists that the mix has gone.

Findings that reach the radiologists. Which rule the published "3 of 10 findings" follows is not
known, so three are computed, from loosest to strictest reading of an interval:

- "mean": the upper end of the method's interval is at or above the radiologists' mean;
- "interval": it is at or above the lower end of the radiologists' interval;
- "paired": the interval of the paired difference (method − radiologists) reaches 0.

A wide interval reaches anything, so a finding says how many images it rests on; a finding
without an interval on either side reaches nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

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
from chexseg_platform.evaluation.metrics import LESS_IS_BETTER, ratio

Reach = Literal["mean", "interval", "paired"]


def gap_closed(
    cube: CountCube,
    metric: str,
    draws: Resampling,
    *,
    method: str,
    weak: str,
    readers: str,
    level: float = 0.95,
) -> Estimate:
    """Share of the way from `weak` to `readers` that `method` has gone, on the mean over findings.

    Only entries and findings that all three have are used. Where the readers are not above
    `weak` there is no gap to close: NaN as a value. Where that is so in more resamples than an
    interval's tail holds, the share has no interval: what is left would be a choice of resamples.
    """
    chosen = cube.select([method, weak, readers]).aligned()
    values = replicates(chosen, metric, draws) * (-1 if metric in LESS_IS_BETTER else 1)
    values = np.where(np.isnan(values).any(axis=1, keepdims=True), np.nan, values)
    means = with_mean(values)[..., -1]
    ours, low, high = (means[:, chosen.methods.index(name)] for name in (method, weak, readers))
    share = np.where(high > low, ratio(ours - low, high - low), np.nan)
    behind = support(chosen, metric, draws)[:, -1].min()
    found = estimates(share[:, None], np.array([behind]), level=level)[0]
    if np.mean(high[1:] <= low[1:]) > (1 - level) / 2:
        return replace(found, low=None, high=None)
    return found


def reaches(
    method: Estimate, readers: Estimate, gap: Estimate, how: Reach = "mean", *, less: bool = False
) -> bool:
    """Whether a method reaches the radiologists on one finding.

    Args:
        method, readers: of the same metric and finding.
        gap: the paired difference, method − readers.
        less: less is better.
    """
    if less:
        method, readers, gap = (_turned(estimate) for estimate in (method, readers, gap))
    if how == "paired":
        return gap.high is not None and gap.high >= 0
    if method.high is None or readers.low is None:
        return False
    return method.high >= (readers.value if how == "mean" else readers.low)


def _turned(estimate: Estimate) -> Estimate:
    low, high = (None if end is None else -end for end in (estimate.high, estimate.low))
    return replace(estimate, value=-estimate.value, low=low, high=high)
