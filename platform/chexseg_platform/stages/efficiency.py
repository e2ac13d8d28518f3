"""The end of a grid of fine-tunings: its counts reduced to tables and curves, as one artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from chexseg_platform import plots, plots_efficiency, tasks
from chexseg_platform.artifacts import Artifact, Draft, Part, csv_bytes
from chexseg_platform.config import Experiment
from chexseg_platform.evaluation import efficiency_tables
from chexseg_platform.evaluation.comparison import MEAN
from chexseg_platform.evaluation.efficiency import LabelEfficiency, Trained, label_efficiency
from chexseg_platform.stages import families
from chexseg_platform.stages.evaluate import counts_of
from chexseg_platform.tasks import Cell


@dataclass(frozen=True)
class Finetuned:
    """A cell of the grid, trained and counted on its task's test images."""

    cell: Cell
    images: int
    history: Sequence[Mapping[str, float]]
    evaluation: Artifact

    @property
    def trained(self) -> Trained:
        """What the tables take."""
        return Trained(
            task=self.cell.task,
            initialisation=self.cell.initialisation,
            fraction=self.cell.fraction,
            images=self.images,
            seed=self.cell.seed,
            history=self.history,
        )


def write_tables(
    draft: Draft,
    experiment: Experiment,
    finetuned: Sequence[Finetuned],
    labels: Mapping[str, Artifact],
    dataset: Artifact | None,
) -> Artifact:
    """Reduce a grid to its artifact.

    Args:
        labels: pseudo-labels by family, to be compared with the dataset's experts.
    """
    found = reduced(experiment, finetuned)
    trained = [item.trained for item in finetuned]
    curves = plots_efficiency.learning_curves(trained, proposed=found.proposed)
    parts = [
        draft.write("finetuning.txt", efficiency_tables.text(found).encode()),
        draft.write("finetuning.md", efficiency_tables.markdown(found).encode()),
        draft.write("finetuning.csv", csv_bytes(efficiency_tables.rows(found))),
        draft.write_json("finetuning.json", efficiency_tables.to_json(found)),
        draft.write("label-efficiency.png", plots.png(plots_efficiency.label_curves(found))),
        draft.write("learning-curves.png", plots.png(curves)),
        *_families(draft, experiment, labels, dataset),
    ]
    inputs = {f"evaluation {f.evaluation.fingerprint[:8]}": f.evaluation for f in finetuned}
    return draft.finish(
        parts,
        config=tasks.settings_of(experiment).model_dump(),
        inputs={name: evaluation.fingerprint for name, evaluation in inputs.items()},
        seed=experiment.evaluation.seed,
        summary={"experiment": experiment.name, "trainings": len(finetuned), **headline(found)},
    )


def reduced(experiment: Experiment, finetuned: Sequence[Finetuned]) -> LabelEfficiency:
    """Return all numbers of a grid; the last initialisation is the proposed one."""
    tables: dict[tuple[str, float], pa.Table] = {}
    for place in dict.fromkeys((item.cell.task, item.cell.fraction) for item in finetuned):
        mine = [f.evaluation for f in finetuned if (f.cell.task, f.cell.fraction) == place]
        tables[place] = counts_of(mine)
    settings = experiment.evaluation
    return label_efficiency(
        [item.trained for item in finetuned],
        tables,
        proposed=list(tasks.settings_of(experiment).initialisations)[-1],
        cluster=settings.cluster,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def _families(
    draft: Draft, experiment: Experiment, labels: Mapping[str, Artifact], dataset: Artifact | None
) -> list[Part]:
    """Write how well the families' labels lie where experts drew; nothing without either."""
    if dataset is None:
        return []
    split = experiment.evaluation.split
    found = families.compare_labels(labels, dataset, split)
    if not found:
        return []
    return [
        draft.write("label-families.txt", families.render(found, split).encode()),
        draft.write("label-families.csv", csv_bytes(families.rows_of(found))),
    ]


def headline(found: LabelEfficiency) -> dict[str, Any]:
    """Return mean Dice of every task, fraction and initialisation, for browsing."""
    return {
        f"dice {value.task} {value.fraction:.3g} {value.initialisation}": value.estimate.value
        for value in found.values
        if (value.metric, value.name) == ("dice_union", MEAN)
    }
