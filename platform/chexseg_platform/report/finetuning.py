"""A grid of fine-tunings, ready for the page: its numbers, charts, and where they come from."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact, CorruptArtifact
from chexseg_platform.evaluation.comparison import MEAN
from chexseg_platform.evaluation.efficiency import LabelEfficiency
from chexseg_platform.evaluation.efficiency_tables import (
    images_of,
    percent,
    too_few_resamples,
)
from chexseg_platform.evaluation.steps import SHARE, Trained
from chexseg_platform.evaluation.tables import NOTHING
from chexseg_platform.report import efficiency, figures
from chexseg_platform.report.content import short
from chexseg_platform.report.figures import Chart
from chexseg_platform.report.find import Found
from chexseg_platform.report.numbers import Card, Cell
from chexseg_platform.report.section import Links, Origin, origin_of, without_folder
from chexseg_platform.report.sources import Below, below
from chexseg_platform.tasks import cell_key
from chexseg_platform.tracking import Page

DATA, CURVES, FAMILIES = "finetuning.json", "learning-curves.png", "label-families"
MEASURES = {
    "iou": "IoU", "pooled": "pooled IoU", "precision": "precision", "recall": "recall",
    "hit": "peaks inside", "chance": "inside by chance",
}  # fmt: skip
"""Columns of `label-families.csv` and their heads on the page."""


@dataclass(frozen=True)
class Lying:
    """How a family's labels of a class lie beside the experts' masks; a cell a measure."""

    name: str
    family: str
    images: str
    cells: Sequence[Cell]

    @property
    def mean(self) -> bool:
        return self.name == MEAN


@dataclass
class Grid:
    """A fine-tuning on the page; what could not be shown is empty, and `notes` say why.

    Attributes:
        anchor: name within the page.
        titles: what each metric is, in words.
        page: the run in MLflow that holds all of it.
        runs: pages of trainings, by `tasks.cell_key`.
        families: how the families' labels lie, and `families_title` on which images.
    """

    template: ClassVar[str] = "finetuning.html.j2"

    name: str
    anchor: str
    fingerprint: str
    result: LabelEfficiency
    titles: Mapping[str, str]
    page: Page | None = None
    runs: dict[str, Page] = field(default_factory=dict)
    charts: list[Chart] = field(default_factory=list)
    families_title: str = ""
    families: list[Lying] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)

    @property
    def parts(self) -> list[tuple[str, str, bool]]:
        """(id, title, whether it is there) of every part, for the contents."""
        return [
            ("headline", "Headline figures", True),
            ("charts", "Curves", bool(self.charts)),
            ("differences", "Paired differences", bool(self.differences)),
            ("steps", "Steps", bool(self.steps)),
            ("scores", "All scores", True),
            ("families", "Labels beside experts' masks", bool(self.families)),
            ("notes", "Notes", True),
        ]

    @property
    def level_percent(self) -> str:
        return f"{100 * self.result.level:g} %"

    @property
    def target(self) -> str:
        """The share of the best score that steps are counted to."""
        return percent(SHARE)

    @property
    def cards(self) -> list[Card]:
        return efficiency.cards(self.result)

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """(name, title) of every metric."""
        return [(short(name), self.titles.get(name, short(name))) for name in self.result.metrics]

    @property
    def measures(self) -> list[str]:
        return list(MEASURES.values())

    @property
    def scores(self) -> list[efficiency.Row]:
        return efficiency.score_rows(self.result)

    @property
    def differences(self) -> list[efficiency.Row]:
        return efficiency.difference_rows(self.result)

    @property
    def steps(self) -> list[efficiency.Timed]:
        return efficiency.step_rows(self.result)

    def runs_of(self, row: efficiency.Timed) -> list[tuple[str, Page]]:
        """Return (seed, page) of the trainings behind a line of the table of steps."""
        keys = {seed: cell_key(row.task, row.fraction, row.start, seed) for seed in row.seeds}
        return [(f"seed {s}", self.runs[key]) for s, key in keys.items() if key in self.runs]


def grid_of(found: Found, pages: Sequence[Page], *, number: int = 1) -> Grid:
    """Make the section of an experiment's fine-tuning.

    Args:
        pages: runs in MLflow.
        number: of the section within the page.

    Raises:
        CorruptArtifact: where the numbers themselves cannot be read.
    """
    made = found.finetuning
    assert made is not None
    raw = made.json(DATA)
    result = efficiency.efficiency_of(raw)
    links, sources = Links(made, found.name, pages), below(made, found.workspace)
    name, anchor = f"{found.name} fine-tuning", f"run{number}"
    grid = Grid(name, anchor, made.fingerprint, result, raw.get("titles", {}))
    grid.page = links.own(made)
    segmenters = {str(s.summary.get("arm")): s for s in sources.of(plan.SEGMENTER)}
    for key, segmenter in segmenters.items():
        page = links.below(segmenter)
        if page is not None:
            grid.runs[key] = page
    _add_charts(grid, made, segmenters)
    _add_families(grid, made)
    _add_origins(grid, made, sources, links)
    few = too_few_resamples(result)
    grid.notes += [few] if few else []
    grid.notes += [f"Missing: {what}." for what in sources.missing]
    return grid


def _add_charts(grid: Grid, made: Artifact, segmenters: Mapping[str, Artifact]) -> None:
    name = f"{grid.anchor}-labels"
    grid.charts.append(figures.label_chart(grid.result, efficiency.METRIC, name))
    trained = _trained(grid, segmenters)
    stored = None if trained else _part(grid, made, CURVES)
    name = f"{grid.anchor}-learning"
    chart = figures.learning_chart(grid.result, trained, stored, name)
    if chart is not None:
        grid.charts.append(chart)
    if not trained:
        shown = "are those of the fine-tuning itself" if stored else "are not shown"
        grid.notes.append(
            f"The learning curves {shown}: not all of what was trained is still there."
        )


def _trained(grid: Grid, segmenters: Mapping[str, Artifact]) -> list[Trained]:
    """Every training of the grid with its history; none where one cannot be read."""
    images, found = images_of(grid.result), list[Trained]()
    for item in grid.result.steps:
        place = (item.task, item.fraction)
        for seed in item.seeds:
            segmenter = segmenters.get(cell_key(*place, item.initialisation, seed.seed))
            try:
                history = segmenter.json("history.json") if segmenter else None
            except CorruptArtifact as error:
                grid.notes.append(f"Missing: {without_folder(error)}.")
                history = None
            if history is None:
                return []
            found.append(
                Trained(
                    task=item.task,
                    initialisation=item.initialisation,
                    fraction=item.fraction,
                    images=images.get(place, 0),
                    seed=seed.seed,
                    history=history,
                )
            )
    return found


def _part(grid: Grid, made: Artifact, name: str) -> bytes | None:
    """A part that the page can do without; one that is damaged is said."""
    if not made.parts(name):
        return None
    try:
        return made.read(name)
    except CorruptArtifact as error:
        grid.notes.append(f"Missing: {without_folder(error)}.")
        return None


def _add_families(grid: Grid, made: Artifact) -> None:
    data, text = (_part(grid, made, f"{FAMILIES}.{kind}") for kind in ("csv", "txt"))
    if data is None:
        return
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    names = list(dict.fromkeys(row["finding"] for row in rows))
    rows.sort(key=lambda row: (row["finding"] != MEAN, names.index(row["finding"])))
    grid.families = [
        Lying(
            row["finding"], row["family"], row["images"], [_measure(row.get(m)) for m in MEASURES]
        )
        for row in rows
    ]
    title = text.decode().partition(":")[0] if text else ""
    grid.families_title = title or "Labels beside the experts' masks"


def _measure(value: str | None) -> Cell:
    return Cell(f"{float(value):.3f}", sort=value) if value else Cell(NOTHING)


def _add_origins(grid: Grid, made: Artifact, sources: Below, links: Links) -> None:
    grid.origins.append(origin_of(made, links.own(made), ""))
    names = _names(grid, sources)
    for artifact in sources.artifacts:
        page = links.below(artifact)
        grid.origins.append(origin_of(artifact, page, names.get(artifact.fingerprint, "")))


def _names(grid: Grid, sources: Below) -> dict[str, str]:
    """What segmenters and evaluations are of, and the tasks of a dataset."""
    names = {s.fingerprint: str(s.summary.get("arm", "")) for s in sources.of(plan.SEGMENTER)}
    tasks = {
        cell_key(step.task, step.fraction, step.initialisation, seed.seed): step.task
        for step in grid.result.steps
        for seed in step.seeds
    }
    drawn: dict[str, dict[str, None]] = {}
    for evaluation in sources.of(plan.EVALUATION):
        inputs = evaluation.manifest["inputs"]
        arm = names.get(inputs.get(plan.SEGMENTER, ""), "")
        names[evaluation.fingerprint] = arm or str(evaluation.summary.get("method", ""))
        if arm in tasks:
            drawn.setdefault(inputs.get(plan.DATASET, ""), {})[tasks[arm]] = None
    return names | {print_: ", ".join(of) for print_, of in drawn.items()}
