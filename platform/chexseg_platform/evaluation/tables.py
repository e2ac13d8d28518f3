"""A comparison as text for a terminal, Markdown, CSV rows and JSON.

The text is read by people, so every table says which mean it is, how many images stand behind
each number, how many seeds were averaged and how the intervals were made. Numbers that do not
exist are a dash in text, empty in CSV and null in JSON: never 0, never NaN.
"""

from __future__ import annotations

import dataclasses
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from chexseg_platform.evaluation.bootstrap import Estimate
from chexseg_platform.evaluation.calibration import Calibration
from chexseg_platform.evaluation.comparison import MEAN, SHOWN, Comparison, Gain
from chexseg_platform.evaluation.metrics import SHORT, TITLES
from chexseg_platform.evaluation.subgroups import SubgroupScore

NOTHING = "–"
FEW = 0.05
"""Share of resamples that an interval may do without before the table says so."""

REACH_RULE = "upper end of its interval at or above their mean"


def cell(estimate: Estimate, *, digits: int = 3) -> str:
    """A value with its interval, "0.312 [0.28, 0.34]"; a dash for what does not exist."""
    if math.isnan(estimate.value):
        return NOTHING
    value = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return f"{value} [{NOTHING}]"
    return f"{value} [{estimate.low:.{digits - 1}f}, {estimate.high:.{digits - 1}f}]"


def signed_cell(estimate: Estimate) -> str:
    """A difference, "+0.034 [+0.010, +0.058]"."""
    return _bracketed(estimate, lambda value: f"{value:+.3f}")


def percent_cell(estimate: Estimate, *, sign: bool = True) -> str:
    """A share, "+12.3 % [+3.1, +21.0]", or "57.2 % [48.0, 66.1]" without a sign."""
    form = "+.1f" if sign else ".1f"
    text = _bracketed(estimate, lambda value: f"{100 * value:{form}}")
    return text.replace(" [", " % [", 1)


def _bracketed(estimate: Estimate, form: Any) -> str:
    if math.isnan(estimate.value):
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{form(estimate.value)} [{NOTHING}]"
    return f"{form(estimate.value)} [{form(estimate.low)}, {form(estimate.high)}]"


def text(comparison: Comparison, *, width: int = 120) -> str:
    """The whole comparison as plain text.

    Where the lines would be longer than `width`, zeros before the point are left out.
    """
    blocks = [_heading(comparison)]
    blocks += [_score_block(comparison, metric, width) for metric in _shown(comparison)]
    blocks += [_gain_block(comparison), _significance_block(comparison)]
    blocks += [_radiologist_block(comparison), _pixel_block(comparison)]
    blocks += [_subgroup_block(comparison), _image_block(comparison)]
    if comparison.notes:
        blocks.append("\n".join(_wrapped(f"Note. {note}", width) for note in comparison.notes))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(line, max(width, 60), subsequent_indent="      ", break_long_words=False)


def _shown(comparison: Comparison) -> list[str]:
    return [metric for metric in SHOWN if metric in comparison.scores]


def _heading(comparison: Comparison) -> str:
    seeds = ", ".join(f"{name} {len(comparison.seeds[name])}" for name in comparison.methods)
    return (
        f"{_plural(comparison.images, 'image')} of {_plural(comparison.patients, 'patient')}. "
        f"In brackets {100 * comparison.level:g} % intervals: {comparison.resamples:,} resamples "
        f"of {_plural(comparison.clusters, comparison.cluster)}, seed {comparison.seed}.\n"
        f"Seeds, averaged within each resample: {seeds}.\n"
        'Under "images": how many the truth shows the finding on.'
    )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _score_block(comparison: Comparison, metric: str, width: int) -> str:
    scores = comparison.scores[metric]
    header = ["Finding", "images", *comparison.methods]
    rows = [
        [name, _whole(count), *(cell(scores[method].findings[index]) for method in scores)]
        for index, (name, count) in enumerate(_rows(comparison))
    ]
    footer = ["SD over seeds", "", *(_number(scores[method].seed_sd) for method in scores)]
    lines = grid(header, rows)
    if max(map(len, lines)) > width:
        rows = [row[:2] + [without_zeros(entry) for entry in row[2:]] for row in rows]
        footer = footer[:2] + [without_zeros(entry) for entry in footer[2:]]
    if any(scores[method].seed_sd is not None for method in scores):
        rows.append(footer)
    lines = grid(header, rows)
    rule = "─" * max(map(len, lines))
    body = [lines[0], rule, *lines[1 : 1 + len(comparison.findings)], rule]
    body += lines[1 + len(comparison.findings) :]
    left_out = max(scores[method].findings[-1].undefined for method in scores)
    notes = [*_averaged_notes(comparison, metric), *_left_out(comparison, left_out)]
    return "\n".join([TITLES[metric], *body, *notes])


def _left_out(comparison: Comparison, undefined: int) -> list[str]:
    """Say how many resamples an interval of means does without, where it is not just a few."""
    if undefined <= FEW * comparison.resamples:
        return []
    return [
        f"Intervals of the mean leave out up to {undefined:,} of {comparison.resamples:,} "
        "resamples, which lack one of its findings: they are of the others only."
    ]


def _rows(comparison: Comparison) -> list[tuple[str, int | None]]:
    return [*zip(comparison.findings, comparison.truth_images, strict=True), (MEAN, None)]


def _averaged_notes(comparison: Comparison, metric: str) -> list[str]:
    whole = len(comparison.findings)
    fewer = [
        f"{method} {score.averaged}"
        for method, score in comparison.scores[metric].items()
        if 0 < score.averaged < whole
    ]
    return [f"Of {whole} findings the mean took: {', '.join(fewer)}."] if fewer else []


def _gain_block(comparison: Comparison) -> str:
    def rows(gains: Sequence[Gain]) -> list[list[str]]:
        return [
            ["difference", *(signed_cell(gain.absolute[-1]) for gain in gains)],
            ["gain", *(percent_cell(gain.relative[-1]) for gain in gains)],
        ]

    shown = _compared(comparison)
    undefined = [
        estimate.undefined
        for metric in shown
        for gain in comparison.gains[metric]
        for estimate in (gain.absolute[-1], gain.relative[-1])
    ]
    title = "Paired differences of means over the findings that both methods have"
    lines = _against(comparison, title, rows)
    return "\n".join([*lines, *_left_out(comparison, max(undefined, default=0))])


def _significance_block(comparison: Comparison) -> str:
    """On which findings the proposed method differs, after correction for their number."""

    def rows(gains: Sequence[Gain]) -> list[list[str]]:
        found = [differing(gain, comparison.level) for gain in gains]
        return [
            ["higher on", *(_of(high, compared) for high, _, compared in found)],
            ["lower on", *(_of(low, compared) for _, low, compared in found)],
            ["p of the mean", *(p_cell(gain.p[-1]) for gain in gains)],
        ]

    title = (
        f"Findings that differ: p < {1 - comparison.level:.2g} after Holm's correction for "
        "their number (paired bootstrap, two-sided)"
    )
    return "\n".join(_against(comparison, title, rows))


def _compared(comparison: Comparison) -> list[str]:
    return [metric for metric in _shown(comparison) if comparison.gains.get(metric)]


def _against(
    comparison: Comparison, title: str, rows_of: Callable[[Sequence[Gain]], list[list[str]]]
) -> list[str]:
    """Lines of a table of the proposed method against each other one, a column a metric.

    `rows_of` gives the rows of one reference from its gains; no lines where nothing is compared.
    """
    shown = _compared(comparison)
    if not shown:
        return []
    rows = []
    for gains in zip(*(comparison.gains[metric] for metric in shown), strict=True):
        first, *more = rows_of(gains)
        rows += [[gains[0].reference, *first], *(["", *row] for row in more)]
    header = [f"{comparison.roles.proposed} against", "", *(SHORT[metric] for metric in shown)]
    lines = grid(header, rows, left=2)
    return [title, lines[0], "─" * max(map(len, lines)), *lines[1:]]


def differing(gain: Tested, level: float) -> tuple[int, int, int]:
    """On how many findings a method is higher, lower, and how many could be compared.

    Higher and lower are those whose p-value is below 1 - `level` after correction.
    """
    pairs = list(zip(gain.absolute[:-1], gain.p_holm[:-1], strict=True))
    compared = [(estimate.value, p) for estimate, p in pairs if p is not None]
    sure = [value for value, p in compared if p < 1 - level]
    return sum(value > 0 for value in sure), sum(value < 0 for value in sure), len(compared)


class Tested(Protocol):
    """What `differing` needs of a gain."""

    @property
    def absolute(self) -> Sequence[Estimate]: ...
    @property
    def p_holm(self) -> Sequence[float | None]: ...


def _of(count: int, compared: int) -> str:
    return f"{count} of {compared}" if compared else NOTHING


def p_cell(p: float | None) -> str:
    """A p-value as journals print it; a dash for none."""
    return NOTHING if p is None else "< .001" if p < 0.001 else without_zeros(f"{p:.3f}")


def _pixel_block(comparison: Comparison) -> str:
    """What is not overlap: means over findings, one row a method."""
    metrics = [m for m in ("dice_pooled", *PIXELS) if m in comparison.scores]
    rows = [
        [method, *(_plain_cell(comparison.scores[m][method].findings[-1], m) for m in metrics)]
        for method in comparison.methods
    ]
    lines = grid(["Mean over findings", *(SHORT[m] for m in metrics)], rows)
    return "\n".join([*lines[:1], "─" * max(map(len, lines)), *lines[1:]])


PIXELS = ("precision", "recall", "specificity", "hd95")


def _plain_cell(estimate: Estimate, metric: str) -> str:
    return cell(estimate, digits=1) if metric == "hd95" else without_zeros(cell(estimate))


def _subgroup_block(comparison: Comparison) -> str:
    """Every method by subgroup under one metric; JSON and CSV have the others."""
    if not comparison.subgroups:
        return ""
    metric = "iou_pooled" if "iou_pooled" in comparison.scores else _shown(comparison)[0]
    rows = [
        [f"{group.trait}, {group.name}", str(group.images)]
        + [without_zeros(cell(group.scores[metric][method])) for method in comparison.methods]
        for group in comparison.subgroups
    ]
    lines = grid(["Subgroup", "images", *comparison.methods], rows)
    title = f"By subgroup: {SHORT[metric]}, mean over the findings that the subgroup shows"
    return "\n".join([title, lines[0], "─" * max(map(len, lines)), *lines[1:]])


def _radiologist_block(comparison: Comparison) -> str:
    roles, lines = comparison.roles, []
    shown = [metric for metric in _shown(comparison) if metric != "hit_rate"]
    if comparison.gap_closed:
        lines.append(f"Gap from {roles.weak} to {roles.readers} closed by {roles.proposed}")
        lines += [
            f"  {SHORT[m]}  {percent_cell(comparison.gap_closed[m], sign=False)}" for m in shown
        ]
        lines += _left_out(comparison, max(comparison.gap_closed[m].undefined for m in shown))
        if any(comparison.gap_closed[m].low is None for m in shown):
            lines.append(f"No interval where {roles.readers} are not surely above {roles.weak}.")
    if any(comparison.reached[metric] for metric in shown):
        lines.append(f"{roles.proposed} reaches {roles.readers} ({REACH_RULE})")
        for metric in shown:
            names = comparison.reached[metric]["mean"]
            count = f"{len(names)} of {len(comparison.findings)}"
            lines.append(f"  {SHORT[metric]}  {count}{': ' if names else ''}{', '.join(names)}")
    return "\n".join(lines)


def _image_block(comparison: Comparison) -> str:
    pair = [metric for metric in ("iou_present", "iou_union") if metric in comparison.scores]
    if len(pair) < 2:
        return ""
    rows = [
        [
            name,
            *(
                " / ".join(
                    _whole(comparison.scores[metric][method].findings[index].images)
                    for metric in pair
                )
                for method in comparison.methods
            ),
        ]
        for index, name in enumerate(comparison.findings)
    ]
    lines = grid(["Finding", *comparison.methods], rows)
    title = "Images behind each number: mIoU A / mIoU B (C rests on those of B), mean over seeds"
    return "\n".join([title, lines[0], "─" * max(map(len, lines)), *lines[1:]])


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Align a table's columns, the first `left` of them to the left."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return [
        "  ".join(
            entry.ljust(size) if column < left else entry.rjust(size)
            for column, (entry, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def without_zeros(entry: str) -> str:
    """Write 0.5 as .5, as journals do."""
    return re.sub(r"\b0\.", ".", entry)


def _whole(count: float | None) -> str:
    return "" if count is None else f"{count:.0f}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def calibration_text(found: Sequence[Calibration]) -> str:
    """Expected calibration errors, findings by methods, as plain text."""
    cells = {(item.finding, item.method): without_zeros(cell(item.error)) for item in found}
    findings = list(dict.fromkeys(item.finding for item in found))
    methods = {item.method: item.unit for item in found}
    rows = [
        [name, *(cells.get((name, method), NOTHING) for method in methods)] for name in findings
    ]
    header = ["Finding", *(f"{method} ({unit}s)" for method, unit in methods.items())]
    lines = grid(header, rows)
    title = "Expected calibration error: |claimed - true| in ten bins, weighted by what is in them"
    return "\n".join([title, lines[0], "─" * max(map(len, lines)), *lines[1:]]) + "\n"


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown: one table a metric, with n beside every number."""
    parts = [_heading(comparison).replace("\n", " ")]
    for metric in _shown(comparison):
        scores = comparison.scores[metric]
        rows = [
            [name, *(_counted_cell(scores[method].findings[index]) for method in scores)]
            for index, (name, _) in enumerate(_rows(comparison))
        ]
        parts.append(f"**{TITLES[metric]}**\n\n" + _pipes(["Finding", *comparison.methods], rows))
    for block in (_gain_block(comparison), _radiologist_block(comparison)):
        if block:
            parts.append(f"```\n{block}\n```")
    parts += [f"Note. {note}" for note in comparison.notes]
    return "\n\n".join(parts) + "\n"


def headline(content: Mapping[str, Any]) -> str:
    """The means alone as one Markdown table, a row a method; from what `to_json` gave."""
    metrics = [metric for metric in SHOWN if metric in content["scores"]]
    rows = [
        [method, *(cell(_mean(content["scores"][metric][method])) for metric in metrics)]
        for method in content["methods"]
    ]
    table = _pipes(["Mean over findings", *(SHORT[metric] for metric in metrics)], rows)
    return (
        f"{table}\n\n{content['images']} images of {content['patients']} patients; "
        f"{content['level']:.0%} intervals over {content['clusters']} {content['cluster']}s.\n"
    )


def _mean(score: Mapping[str, Any]) -> Estimate:
    last = score["findings"][-1]
    return Estimate(**last | {"value": math.nan if last["value"] is None else last["value"]})


def _counted_cell(estimate: Estimate) -> str:
    if estimate.images is None or math.isnan(estimate.value):
        return cell(estimate)
    return f"{cell(estimate)}, n = {estimate.images:.0f}"


def _pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def csv_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Every number of the comparison as a row; what does not exist is None.

    Keys: kind ("score", "difference", "gain", "gap closed", "subgroup"), metric, method,
    reference, finding, value, low, high, images, undefined, seeds, subgroup, p, p_holm.
    """
    return list(_csv_rows(comparison))


def _csv_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    ours = comparison.roles.proposed
    names = [*comparison.findings, MEAN]
    for metric, scores in comparison.scores.items():
        for method, score in scores.items():
            for name, found in zip(names, score.findings, strict=True):
                yield _csv_row(comparison, "score", metric, method, None, name, found)
    for metric, gains in comparison.gains.items():
        for gain in gains:
            for kind, found_all in (("difference", gain.absolute), ("gain", gain.relative)):
                for index, found in enumerate(found_all):
                    row = _csv_row(
                        comparison, kind, metric, ours, gain.reference, names[index], found
                    )
                    yield row | {"p": gain.p[index], "p_holm": gain.p_holm[index]}
    for metric, found in comparison.gap_closed.items():
        weak = comparison.roles.weak
        yield _csv_row(comparison, "gap closed", metric, ours, weak, MEAN, found)
    for group in comparison.subgroups:
        yield from _subgroup_rows(comparison, group)


def _subgroup_rows(comparison: Comparison, group: SubgroupScore) -> Iterator[dict[str, Any]]:
    for metric, scores in group.scores.items():
        for method, found in scores.items():
            row = _csv_row(comparison, "subgroup", metric, method, None, MEAN, found)
            yield row | {"subgroup": f"{group.trait}: {group.name}", "images": group.images}


def _csv_row(
    comparison: Comparison,
    kind: str,
    metric: str,
    method: str,
    reference: str | None,
    finding: str,
    estimate: Estimate,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "metric": metric,
        "method": method,
        "reference": reference,
        "finding": finding,
        "seeds": len(comparison.seeds[method]),
        "subgroup": None,
        "p": None,
        "p_holm": None,
        **plain(dataclasses.asdict(estimate)),
    }


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values: NaN and infinities become null, tuples lists."""
    whole = plain(dataclasses.asdict(comparison))
    assert isinstance(whole, dict)
    return whole | {"titles": {metric: TITLES[metric] for metric in comparison.scores}}


def plain(value: Any) -> Any:
    """Turn what JSON lacks into what it has: NaN and infinities null, tuples lists."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
