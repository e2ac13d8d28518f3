"""A comparison or a sweep, ready for the page: its numbers, figures, cases, where they come from.

`finetuning.py` has the same of a grid of fine-tunings.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact, CorruptArtifact
from chexseg_platform.config import swept_field
from chexseg_platform.plots import look
from chexseg_platform.report import figures, gallery, numbers
from chexseg_platform.report.content import Content, calibrations_of, content_of, short
from chexseg_platform.report.figures import Chart
from chexseg_platform.report.find import Found
from chexseg_platform.report.gallery import Case, Heat
from chexseg_platform.report.sources import Sources
from chexseg_platform.tracking import Page


@dataclass(frozen=True)
class Origin:
    """An artifact that numbers come from, and its run in MLflow if it is known."""

    kind: str
    what: str
    fingerprint: str
    code: str
    seed: int | None
    page: Page | None


@dataclass
class Section:
    """A run on the page; what could not be shown is empty, and `notes` say why.

    Attributes:
        anchor: name within the page.
        page: the run in MLflow that holds the headline.
        methods: method -> pages of its trainings.
        content: the numbers; of a sweep, its winner's on the test images.
    """

    template: ClassVar[str] = "comparison.html.j2"

    name: str
    anchor: str
    kind: str
    content: Content
    cards: list[numbers.Card]
    page: Page | None = None
    methods: dict[str, list[tuple[str, Page]]] = field(default_factory=dict)
    forests: list[Chart] = field(default_factory=list)
    mix: Chart | None = None
    sweep_head: list[str] = field(default_factory=list)
    sweep_rows: list[list[str]] = field(default_factory=list)
    chosen: str = ""
    curves: list[Chart] = field(default_factory=list)
    calibration: Chart | None = None
    errors: Any = None
    rule: str = ""
    cases: dict[str, list[Case]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)

    @property
    def parts(self) -> list[tuple[str, str, bool]]:
        """(id, title, whether it is there) of every part, for the contents."""
        return [
            ("headline", "Headline figures", True),
            ("means", "Means", True),
            ("findings", "Finding by finding", True),
            ("mix", "mIoU against the mix", bool(self.sweep_rows)),
            ("curves", "Learning curves", bool(self.curves)),
            ("numbers", "All numbers", True),
            ("cases", "Cases", bool(self.cases)),
            ("subgroups", "Subgroups", bool(self.subgroups[1])),
            ("calibration", "Calibration", self.calibration is not None),
            ("notes", "Notes", True),
        ]

    @property
    def level_percent(self) -> str:
        return self.content.level_percent

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """(name, title) of every metric."""
        return [(short(metric), self.content.titles[metric]) for metric in self.content.scores]

    @property
    def colour(self) -> str:
        """The colour of the proposed method's masks on X-rays."""
        return look(self.content.roles.proposed).bright

    @property
    def means(self) -> Any:
        return numbers.means(self.content)

    @property
    def rows(self) -> list[numbers.Row]:
        return numbers.all_rows(self.content)

    @property
    def subgroups(self) -> Any:
        return numbers.subgroup_rows(self.content)


Heats = Callable[[Sources, Sequence[gallery.Choice]], Heat]


def section_of(
    found: Found,
    sources: Sources,
    pages: Sequence[Page],
    heats: Heats,
    *,
    number: int = 1,
    side: int = gallery.SIDE,
) -> Section:
    """Make a section.

    Args:
        pages: runs in MLflow.
        heats: gives the maps of chosen cases.
        number: of the section within the page.
        side: longest side of an X-ray, in pixels.
    """
    raw = found.artifact.json("comparison.json" if found.comparison else "test.json")
    content = content_of(raw)
    kind = "comparison and sweep" if found.comparison and found.sweep else found.artifact.kind
    section = Section(found.name, f"run{number}", kind, content, numbers.cards(content))
    links = Links(found.artifact, found.name, pages)
    section.page = links.own(found.artifact)
    _add_methods(section, sources, links)
    _add_forests(section)
    if found.sweep is not None:
        _add_sweep(section, found.sweep)
    _add_curves(section, sources)
    if found.comparison is not None:
        _add_calibration(section, found.comparison)
        _add_cases(section, found.comparison, sources, heats, side)
    else:
        section.notes.append(
            "Cases are shown of comparisons; of a sweep, run the winner as an arm."
        )
    _add_origins(section, found, sources, links)
    section.notes += [f"Missing: {what}." for what in sources.missing]
    return section


class Links:
    """Pages of the runs of an experiment, and below an artifact's: its own before others'."""

    def __init__(self, top: Artifact, experiment: str, pages: Sequence[Page]) -> None:
        ours = sorted(pages, key=lambda page: page.experiment == experiment)
        self.pages = {page.key: page for page in ours}
        self.top = top.fingerprint

    def own(self, artifact: Artifact) -> Page | None:
        return self.pages.get(artifact.fingerprint)

    def below(self, artifact: Artifact) -> Page | None:
        return self.pages.get(f"{self.top}/{artifact.fingerprint}")


def _add_methods(section: Section, sources: Sources, links: Links) -> None:
    for (method, seed), segmenter in sources.segmenters.items():
        page = links.below(segmenter)
        if page is not None:
            section.methods.setdefault(method, []).append((f"seed {seed}", page))
    for evaluation in sources.evaluations:
        method, source = evaluation.summary["method"], sources.pseudolabels
        if plan.PSEUDOLABELS in evaluation.manifest["inputs"] and source is not None:
            page = links.below(source)
            section.methods[method] = [("run", page)] if page else []


def _add_forests(section: Section) -> None:
    shown = [metric for metric in numbers.IOUS if metric in section.content.scores]
    for metric in reversed(shown):
        name = f"{section.anchor}-forest-{metric.replace('_', '-')}"
        section.forests.append(figures.forest_chart(section.content, metric, name))


def _add_sweep(section: Section, sweep: Artifact) -> None:
    table = list(csv.DictReader(io.StringIO(sweep.read("sweep.csv").decode())))
    section.chosen = str(sweep.summary["winner"])
    section.sweep_head = list(table[0]) if table else []
    section.sweep_rows = [list(row.values()) for row in table]
    space = list(sweep.manifest["config"]["space"])
    if [swept_field(name) for name in space] != ["segmenter.expert_probability"] or not table:
        section.notes.append("The sweep varies more than the mix, so it has a table and no curve.")
        return
    chosen = section.chosen.rpartition(" ")[2]
    section.mix = figures.mix_chart(table, space[0], chosen, f"{section.anchor}-mix")


def _add_curves(section: Section, sources: Sources) -> None:
    trained = [(arm, seed, item) for (arm, seed), item in sources.segmenters.items()]
    try:
        histories = [(arm, seed, item.json("history.json")) for arm, seed, item in trained]
        if histories:
            name = f"{section.anchor}-segmenters"
            section.curves.append(figures.segmenter_chart(histories, name))
        learned = [item.json("history.json") for item in sources.classifiers]
        if learned:
            name = f"{section.anchor}-classifiers"
            section.curves.append(figures.classifier_chart(learned, name))
    except CorruptArtifact as error:
        sources.missing.append(without_folder(error))
    if not section.curves:
        section.notes.append("No learning curves: what was trained is no longer there.")


def _add_calibration(section: Section, comparison: Artifact) -> None:
    if not comparison.parts("calibration.json"):
        return
    found = calibrations_of(comparison.json("calibration.json"))
    section.calibration = figures.reliability_chart(found, f"{section.anchor}-reliability")
    section.errors = numbers.calibration_rows(found)


def _add_cases(
    section: Section, comparison: Artifact, sources: Sources, heats: Heats, side: int
) -> None:
    method = section.content.roles.proposed
    seed = min(section.content.seeds.get(method, (0,)))
    evaluation = next(
        (
            e
            for e in sources.evaluations
            if (e.summary["method"], e.summary["seed"]) == (method, seed)
        ),
        None,
    )
    if evaluation is None or sources.dataset is None:
        section.notes.append("No cases: the dataset or the predictions are no longer there.")
        return
    try:
        counts = comparison.table("counts.parquet")
        choices = gallery.choose(counts, method, seed)
        made = gallery.Sources(
            method, seed, counts, evaluation, sources.dataset, sources.pseudolabels,
            heats(sources, choices),
        )  # fmt: skip
        drawn = gallery.draw(made, choices, side=side, prefix=f"{section.anchor}-case")
    except CorruptArtifact as error:
        sources.missing.append(without_folder(error))
        section.notes.append("No cases: the dataset or the predictions cannot be read.")
        return
    section.rule = gallery.RULE.format(method=method, seed=seed)
    if sources.pseudolabels is not None and not made.heat:
        section.notes.append(
            "Saliency is shown by its mask and peak: no map was made for this page."
        )
    for case in sorted(drawn, key=lambda case: section.content.findings.index(case.choice.finding)):
        section.cases.setdefault(case.choice.finding, []).append(case)


def _add_origins(section: Section, found: Found, sources: Sources, links: Links) -> None:
    for own in (found.comparison, found.sweep):
        if own is not None:
            section.origins.append(origin_of(own, links.own(own), ""))
    names = {item.fingerprint: f"{m}, seed {s}" for (m, s), item in sources.segmenters.items()}
    names |= {e.fingerprint: str(e.summary["method"]) for e in sources.evaluations}
    for artifact in sources.all:
        page, what = links.below(artifact), names.get(artifact.fingerprint, "")
        section.origins.append(origin_of(artifact, page, what))


def origin_of(artifact: Artifact, page: Page | None, what: str) -> Origin:
    code = str(artifact.manifest["code"])
    return Origin(artifact.kind, what, artifact.fingerprint, code, artifact.seed, page)


def without_folder(error: CorruptArtifact) -> str:
    """What an error says is wrong, without where the workspace lies."""
    what, _, rest = str(error).partition(" of ")
    return f"{what} of {'/'.join(rest.partition('. ')[0].rsplit('/', 2)[-2:])}"
