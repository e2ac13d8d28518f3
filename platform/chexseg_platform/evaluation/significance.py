"""P-values of paired differences, corrected for looking at ten findings.

The bootstrap's differences say how often chance alone would turn the sign: p is twice the share of
resamples on the other side of zero, counted as (k + 1) / (n + 1) so that it is never 0 (Davison and
Hinkley 1997, section 4.2). It says the same as the percentile interval: p < 0.05 where a 95 %
interval leaves out zero. Ten findings are ten chances of a false alarm, so Holm's step-down method
(Holm 1979) keeps the chance of any at the level of one; it assumes nothing of how they hang
together, and findings do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def p_values(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of each difference: (B, K) resamples, NaN undefined -> float64 (K,) in (0, 1].

    NaN where fewer than two resamples are defined.
    """
    defined = np.count_nonzero(~np.isnan(differences), axis=0)
    sides = [np.count_nonzero(differences <= 0, axis=0), np.count_nonzero(differences >= 0, axis=0)]
    p = np.minimum(1.0, 2 * (np.minimum(*sides) + 1) / (defined + 1))
    return np.where(defined < 2, np.nan, p)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of one family of p-values; None stays None and is not counted."""
    there = sorted((value, index) for index, value in enumerate(p) if value is not None)
    out: list[float | None] = [None] * len(p)
    least = 0.0
    for rank, (value, index) in enumerate(there):
        least = max(least, min(1.0, (len(there) - rank) * value))
        out[index] = least
    return out
