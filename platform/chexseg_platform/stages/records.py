"""What the tracking store is told of an experiment and its stages: names, curves, tables, models.

The experiment is one run and every stage a run below it, keyed by fingerprints; so the same
command continues the same runs. What a person opens first, the experiment's own run, shows the
comparison's headline, tables and figures once they are there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact, code_revision
from chexseg_platform.config import Experiment
from chexseg_platform.evaluation import tables
from chexseg_platform.evaluation.metrics import SHORT
from chexseg_platform.plan import Training
from chexseg_platform.stages.compare import first_of_each
from chexseg_platform.stages.training import Note
from chexseg_platform.tracking import RunRef, Tracker

LOADABLE = (plan.CLASSIFIER, plan.SEGMENTER)
DESCRIPTION = "mlflow.note.content"
CURVES = {
    "loss": "training/loss",
    "miou": "validation/mIoU",
    "boundary loss": "validation/boundary loss",
    "displacement loss": "validation/displacement loss",
    "auroc mean": "validation/AUROC mean",
    "auroc competition": "validation/AUROC competition",
}
FINDING_CURVES = {"iou": "validation IoU", "auroc": "validation AUROC"}
"""MLflow makes a section of charts of what stands before the slash, and sorts them by name."""


def top_run(tracker: Tracker, experiment: Experiment, key: str, name: str | None = None) -> RunRef:
    """Open the experiment's own run, or its sweep's by a name, with its resolved settings."""
    run = tracker.run(
        key,
        name or experiment.name,
        tags={"code": code_revision(), "fingerprint": key},
        params=key_settings(experiment),
    )
    run.text("experiment.yaml", yaml.safe_dump(experiment.model_dump(), sort_keys=False))
    return run


def key_settings(experiment: Experiment) -> dict[str, Any]:
    """Return the settings a person compares runs by."""
    return {
        "seed": experiment.seed,
        "size": experiment.data.size,
        "classifier.encoder": experiment.classifier.encoder,
        "saliency.threshold": experiment.saliency.threshold,
        "segmenter.architecture": experiment.segmenter.architecture,
        "segmenter.encoder": experiment.segmenter.encoder,
        "segmenter.init": experiment.segmenter.init,
        "segmenter.expert_probability": experiment.segmenter.expert_probability,
        "segmenter.expert_masks": experiment.segmenter.expert_masks,
        "segmenter.lr": experiment.segmenter.lr,
        "segmenter.epochs": experiment.segmenter.epochs,
        "arms": ", ".join(experiment.arms),
        "seeds": len(experiment.seeds),
    }


def stage_run(parent: RunRef, stage: str, print_: str, title: str = "", **params: Any) -> RunRef:
    """Open the run of a stage, named as the command of that stage and what it works on."""
    tags = {"stage": stage, "fingerprint": print_}
    return parent.child(print_, run_name(f"{stage} {title}"), tags=tags, params=params)


def segment_run(parent: RunRef, training: Training, print_: str) -> RunRef:
    """Open the run of one training: an arm and a seed."""
    p, seed = training.settings.expert_probability, training.seed
    return stage_run(
        parent, "segment", print_, training.key, arm=training.arm, expert_probability=p, seed=seed
    )


def run_name(text: str) -> str:
    """Return a text as a name that MLflow's pages can show: other characters become spaces."""
    return " ".join(re.sub(r"[^A-Za-z0-9._-]+", " ", text).split())


def curves(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return a validation's figures by the names of their curves.

    Those a finding are grouped, after the others; the score is one of them by another name.
    """
    shown = {}
    for name, value in metrics.items():
        measure, _, finding = name.partition(" ")
        if name in CURVES:
            shown[CURVES[name]] = value
        elif measure in FINDING_CURVES:
            shown[f"{FINDING_CURVES[measure]}/{finding}"] = value
    return shown


def log_note(run: RunRef, note: Note) -> None:
    """Log a validation's metrics, each step once."""
    if note.metrics is None:
        return
    run.metrics(note.step, {**curves(note.metrics), "images per second": note.images_per_second})
    run.tracker.flush(seconds=1.0)


def finish(run: RunRef, artifact: Artifact, **metrics: float) -> None:
    """Log what a finished artifact says of itself, and end its run; again, it changes nothing."""
    run.tags({"artifact": artifact.uri})
    run.json("artifact.json", {k: v for k, v in artifact.manifest.items() if k != "parts"})
    run.metrics(0, metrics)
    if artifact.kind in LOADABLE:
        best = curves(artifact.summary["best"])
        scores = {n: v for n, v in best.items() if n.startswith("validation/")}
        run.metrics(0, {f"best {name.replace('/', ' ')}": v for name, v in scores.items()})
        for row in artifact.json("history.json"):
            run.metrics(int(row["step"]), curves(row))
        run.model(artifact.kind, artifact)
    run.finish()


def finish_dataset(run: RunRef, dataset: Artifact) -> None:
    """Log how many images there are, and end the run."""
    counts = {f"images {name}": s["images"] for name, s in dataset.summary["splits"].items()}
    finish(run, dataset, **counts, rejected=sum(dataset.summary["rejected"].values()))


def finish_pseudolabels(run: RunRef, pseudolabels: Artifact) -> None:
    """Log how many masks there are, and end the run."""
    summary = pseudolabels.summary
    masks = {f"masks/{finding}": count for finding, count in summary["masks"].items()}
    if pseudolabels.parts("saliency.png"):
        run.image("saliency.png", pseudolabels.read("saliency.png"))
    finish(run, pseudolabels, images=summary["images"], masks=sum(masks.values()), **masks)


def finish_evaluations(run: RunRef, evaluations: Sequence[Artifact]) -> None:
    """Log what was counted, the predictions in CheXlocalize's JSON, and end the run."""
    rows = [
        {
            "method": e.summary["method"],
            "seed": e.seed,
            "rows": e.summary["rows"],
            "artifact": e.uri,
        }
        for e in evaluations
    ]
    run.table("evaluations", rows)
    for method, evaluation in first_of_each(evaluations).items():
        if evaluation.parts("predictions.json"):
            predictions = evaluation.read("predictions.json").decode()
            run.text(f"predictions/{run_name(method).replace(' ', '-')}.json", predictions)
    run.finish()


def finish_comparison(
    run: RunRef, parent: RunRef, experiment: Experiment, comparison: Artifact
) -> None:
    """Log tables, figures and scores with the comparison's own run and with the experiment's."""
    for place in (run, parent):
        texts = ("comparison.txt", "comparison.md", "comparison.csv", "calibration.txt")
        _log_pages(place, comparison, *texts)
        place.metrics(0, headline_metrics(comparison.summary))
    run.json("comparison.json", comparison.json("comparison.json"))
    _describe(parent, experiment, tables.headline(comparison.json("comparison.json")))
    finish(run, comparison)


def finish_sweep(parent: RunRef, experiment: Experiment, sweep: Artifact) -> None:
    """Log a sweep's table and plot, what was chosen and how it does on the test images."""
    _log_pages(parent, sweep, "sweep.txt", "sweep.csv")
    winner, test = sweep.summary["winner"], sweep.json("test.json")
    parent.metrics(0, chosen_metrics(test, winner))
    text = f"Chosen on validation patients: {winner}. On the {experiment.evaluation.split} images:"
    _describe(parent, experiment, text, tables.headline(test))
    parent.finish()


def finish_finetuning(parent: RunRef, experiment: Experiment, found: Artifact) -> None:
    """Log a grid's tables, curves and mean scores with the experiment's own run."""
    texts = ("finetuning.txt", "finetuning.csv", "label-families.txt", "label-families.csv")
    _log_pages(parent, found, *texts)
    parent.json("finetuning.json", found.json("finetuning.json"))
    scores = {n: v for n, v in found.summary.items() if n.startswith("dice ") and v is not None}
    parent.metrics(0, {f"Dice/{name.removeprefix('dice ')}": v for name, v in scores.items()})
    tried = f"{found.summary['trainings']} fine-tunings; see finetuning.txt and its curves."
    shown = [found.read(part.name).decode() for part in found.parts("finetuning.md")]
    _describe(parent, experiment, *shown, tried)


def _log_pages(run: RunRef, artifact: Artifact, *texts: str) -> None:
    """Log what a person reads and looks at: the named texts, and every figure."""
    for name in texts:
        if artifact.parts(name):
            run.text(name, artifact.read(name).decode())
    for part in artifact.parts():
        if part.name.endswith(".png"):
            run.image(part.name, artifact.read(part.name))


def _describe(run: RunRef, experiment: Experiment, *paragraphs: str) -> None:
    """Say what stands on top of a run's page: what the experiment is, and what came out."""
    text = "\n\n".join([experiment.description.strip(), *paragraphs])
    run.tags({DESCRIPTION: text.strip()})


def chosen_metrics(test: Mapping[str, Any], winner: str) -> dict[str, float]:
    """Return the means of a sweep's winner on the test images: "mIoU C/chosen"."""
    scores = {m: test["scores"][m][winner] for m in tables.SHOWN if m in test["scores"]}
    means = {SHORT[metric]: score["findings"][-1]["value"] for metric, score in scores.items()}
    return {f"{name}/chosen": float(mean) for name, mean in means.items() if mean is not None}


def headline_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a comparison's tables by names that MLflow groups: "mIoU C/mix"."""
    names = {name: _grouped(name) for name, value in summary.items() if value is not None}
    return {grouped: float(summary[name]) for name, grouped in names.items() if grouped}


def _grouped(name: str) -> str | None:
    """A number's name; None for those that are only in the CSV and JSON."""
    if name in ("images", "patients"):
        return name
    for metric in tables.SHOWN:
        if name == f"gap closed {metric}":
            return f"gap closed/{SHORT[metric]}"
        if name.startswith(f"{metric} "):
            return name.replace(f"{metric} ", f"{SHORT[metric]}/", 1)
    return None
