"""A comparison as its `comparison.json` says it.

Read leniently: a metric, a method or a key that this version does not know is kept and shown, and
what an older file lacks is empty. So a report can be made of any comparison in a workspace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.comparison import Roles
from chexseg_platform.evaluation.iou import SHORT


@dataclass(frozen=True)
class Score:
    """One method under one metric: K estimates, then the mean; and the spread over seeds."""

    findings: tuple[Estimate, ...]
    averaged: int | None
    seed_sd: float | None


@dataclass(frozen=True)
class Gain:
    """The proposed method against another, and what a test says of the mean's difference."""

    reference: str
    absolute: tuple[Estimate, ...]
    relative: tuple[Estimate, ...]
    tests: Mapping[str, float]


@dataclass(frozen=True)
class Content:
    """The numbers of a comparison; dictionaries are keyed by metric, then by method.

    Attributes:
        titles: what each metric is, in words.
        further: keys of the file that are none of the above.
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
    rule: str
    scores: dict[str, dict[str, Score]]
    gains: dict[str, tuple[Gain, ...]]
    gap_closed: dict[str, Estimate]
    reached: dict[str, dict[str, tuple[str, ...]]]
    left_out: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    titles: dict[str, str]
    further: dict[str, Any]

    @property
    def level_percent(self) -> str:
        return f"{100 * self.level:g} %"


PLAIN = ("images", "patients", "cluster", "clusters", "resamples", "seed", "level", "rule")
TESTS = ("p", "p_adjusted")


def content_of(raw: Mapping[str, Any]) -> Content:
    """Read what `evaluation.tables.to_json` gave."""
    known = {field.name for field in fields(Content)} - {"further"}
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
        further={name: value for name, value in raw.items() if name not in known},
    )


def estimate(entry: Mapping[str, Any]) -> Estimate:
    """Return a number with its interval; null is NaN."""
    names = {field.name for field in fields(Estimate)}
    value = math.nan if entry.get("value") is None else float(entry["value"])
    return Estimate(**{key: entry[key] for key in entry if key in names} | {"value": value})


def is_estimate(entry: Any) -> bool:
    return isinstance(entry, Mapping) and {"value", "low", "high"} <= set(entry)


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
    return Gain(entry["reference"], absolute, relative, _tests(entry))


def _tests(entry: Mapping[str, Any]) -> dict[str, float]:
    """p-values of the mean's difference, given for the mean alone or for each finding before it."""
    found = {}
    for name in TESTS:
        value = entry.get(name)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[-1] if value else None
        if isinstance(value, (int, float)):
            found[name] = float(value)
    return found
