"""A comparison as its `comparison.json` says it.

Read leniently: a metric or a method that this version does not know is kept and shown, and what an
older file lacks is empty. So a report can be made of any comparison in a workspace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.calibration import Calibration
from chexseg_platform.evaluation.comparison import Roles
from chexseg_platform.evaluation.metrics import SHORT
from chexseg_platform.evaluation.subgroups import SubgroupScore


@dataclass(frozen=True)
class Score:
    """One method under one metric: K estimates, then the mean; and the spread over seeds."""

    findings: tuple[Estimate, ...]
    averaged: int | None
    seed_sd: float | None


@dataclass(frozen=True)
class Gain:
    """The proposed method against another; `p` and `p_holm` as in `evaluation.comparison`."""

    reference: str
    absolute: tuple[Estimate, ...]
    relative: tuple[Estimate, ...]
    p: tuple[float | None, ...]
    p_holm: tuple[float | None, ...]


@dataclass(frozen=True)
class Content:
    """The numbers of a comparison; dictionaries are keyed by metric, then by method.

    Attributes:
        titles: what each metric is, in words.
    """

    roles: Roles
    findings: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: dict[str, tuple[int, ...]]
    truth_images: tuple[int, ...]
    images: int
    patients: int
    cluster: str
    clusters: int
    resamples: int
    seed: int
    level: float
    scores: dict[str, dict[str, Score]]
    gains: dict[str, tuple[Gain, ...]]
    gap_closed: dict[str, Estimate]
    reached: dict[str, dict[str, tuple[str, ...]]]
    left_out: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    titles: dict[str, str]
    subgroups: tuple[SubgroupScore, ...]

    @property
    def level_percent(self) -> str:
        return f"{100 * self.level:g} %"


PLAIN = ("images", "patients", "cluster", "clusters", "resamples", "seed", "level")


def content_of(raw: Mapping[str, Any]) -> Content:
    """Read what `evaluation.tables.to_json` gave."""
    scores = {
        metric: {method: _score(entry) for method, entry in by_method.items()}
        for metric, by_method in raw["scores"].items()
    }
    return Content(
        roles=_roles(raw["roles"]),
        findings=tuple(raw["findings"]),
        methods=tuple(raw["methods"]),
        seeds={name: tuple(seeds) for name, seeds in raw["seeds"].items()},
        truth_images=tuple(raw["truth_images"]),
        **{name: raw[name] for name in PLAIN},
        scores=scores,
        gains={m: tuple(map(_gain, gains)) for m, gains in raw.get("gains", {}).items()},
        gap_closed={m: estimate(entry) for m, entry in raw.get("gap_closed", {}).items()},
        reached={
            metric: {how: tuple(names) for how, names in rules.items()}
            for metric, rules in raw.get("reached", {}).items()
        },
        left_out={name: tuple(ids) for name, ids in raw.get("left_out", {}).items()},
        notes=tuple(raw.get("notes", ())),
        titles={metric: raw.get("titles", {}).get(metric, short(metric)) for metric in scores},
        subgroups=tuple(map(_subgroup, raw.get("subgroups", ()))),
    )


def calibrations_of(raw: Sequence[Mapping[str, Any]]) -> list[Calibration]:
    """Read a comparison's `calibration.json`."""
    return [
        Calibration(
            entry["method"],
            entry["finding"],
            entry["unit"],
            **{name: tuple(entry[name]) for name in ("count", "claimed", "true")},
            error=estimate(entry["error"]),
        )
        for entry in raw
    ]


def estimate(entry: Mapping[str, Any]) -> Estimate:
    """Return a number with its interval; null is NaN."""
    names = {field.name for field in fields(Estimate)}
    value = math.nan if entry.get("value") is None else float(entry["value"])
    return Estimate(**{key: entry[key] for key in entry if key in names} | {"value": value})


def short(metric: str) -> str:
    """Return a metric's name for the head of a column."""
    return SHORT.get(metric, metric.replace("_", " "))


def _roles(entry: Mapping[str, Any]) -> Roles:
    names = {field.name for field in fields(Roles)}
    kept = {key: value for key, value in entry.items() if key in names}
    return Roles(**kept | {"references": tuple(entry.get("references", ()))})


def _score(entry: Mapping[str, Any]) -> Score:
    found = tuple(map(estimate, entry["findings"]))
    return Score(found, entry.get("averaged"), entry.get("seed_sd"))


def _gain(entry: Mapping[str, Any]) -> Gain:
    absolute, relative = (tuple(map(estimate, entry[name])) for name in ("absolute", "relative"))
    p, p_holm = (tuple(entry.get(name, ())) for name in ("p", "p_holm"))
    return Gain(entry["reference"], absolute, relative, p, p_holm)


def _subgroup(entry: Mapping[str, Any]) -> SubgroupScore:
    scores = {
        metric: {method: estimate(found) for method, found in by_method.items()}
        for metric, by_method in entry["scores"].items()
    }
    return SubgroupScore(**dict(entry) | {"scores": scores})
