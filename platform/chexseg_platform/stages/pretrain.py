"""Pre-training: whole segmenters learn pseudo-labels alone, with rounds of self-distillation.

What is called DoLL (arXiv 2401.08469) is a family of pseudo-labels like any other, whose settings
distil and boost Integrated Gradients. The paper's abstract names these steps and the two parts that
are pre-trained, backbone and segmentation module; every number is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chexseg_platform import plan
from chexseg_platform.artifacts import Artifact, csv_bytes, fingerprint
from chexseg_platform.config import Experiment
from chexseg_platform.stages import records
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.families import compare_labels, render, rows_of
from chexseg_platform.stages.orders import Masks, Order, start_of, train_orders
from chexseg_platform.stages.relabel import relabel
from chexseg_platform.stages.segment import Experts
from chexseg_platform.stages.tracked import (
    Say,
    Tracked,
    classify_tracked,
    explain_tracked,
    ingest_tracked,
)
from chexseg_platform.tracking import Tracker


class UnknownFamily(ValueError):
    """A family of pseudo-labels that the experiment does not name."""


def pretrain(
    context: Context,
    experiment: Experiment,
    families: Sequence[str],
    tracker: Tracker,
    say: Say,
    *,
    labels_only: bool = False,
) -> dict[str, Artifact]:
    """Pre-train on some families, all where none is named; return their segmenters.

    Args:
        labels_only: make and compare the labels, and train no segmenter: return the labels.

    Raises:
        UnknownFamily: saying which there are.
    """
    names = named(experiment, families)
    dataset_print = plan.dataset_print(experiment.data, context.workspace)
    prints = [plan.rounds_of(experiment, name, dataset_print)[-1].segmenter for name in names]
    key = fingerprint("pretrained", {"of": prints, "labels": labels_only})
    parent = records.top_run(tracker, experiment, key, f"{experiment.name} pretrain")
    at = Tracked(context, parent, say)
    dataset, experts = ingest_tracked(at, experiment)
    made, labels = dict[str, Artifact](), dict[str, Artifact]()
    for name in names:
        say(f"{name}:")
        given = (at, experiment, name, dataset, experts)
        if labels_only:
            labels[name] = labels_tracked(*given)[1]
        else:
            labels[name], made[name] = pretrain_tracked(*given)
    split = experiment.evaluation.split
    found = compare_labels(labels, dataset, split)
    if found:
        parent.text("label-families.txt", render(found, split))
        parent.text("label-families.csv", csv_bytes(rows_of(found)).decode())
        say(f"\n{render(found, split)}")
    parent.finish()
    return labels if labels_only else made


def named(experiment: Experiment, families: Sequence[str]) -> list[str]:
    """Return the families that are asked for, all where none is; UnknownFamily for another."""
    if experiment.pretrain is None:
        raise UnknownFamily(
            f"{experiment.name} has no section pretrain: give its families, as "
            "experiments/doll-phantom.yaml does"
        )
    there = list(experiment.pretrain.families)
    for name in families:
        if name not in there:
            raise UnknownFamily(f"{name!r} is no family of pretrain: there is {', '.join(there)}")
    return list(families) or there


class Pretrained(NamedTuple):
    """A family's pseudo-labels, as they are after the last round, and the segmenter of them."""

    labels: Artifact
    segmenter: Artifact


def pretrain_tracked(
    at: Tracked, experiment: Experiment, family: str, dataset: Artifact, experts: Experts
) -> Pretrained:
    """Pre-train a segmenter on a family of pseudo-labels, or return the one that is there.

    Classifiers and labels are made where they are not there yet. A round of self-distillation that
    betters no class is the last.
    """
    variant = experiment.family(family)
    rounds = plan.rounds_of(experiment, family, dataset.fingerprint)
    classifiers, labels = labels_tracked(at, experiment, family, dataset, experts)

    def learned(labels: Artifact, made: plan.Round) -> Artifact:
        key = f"{family}, round {rounds.index(made)}" if len(rounds) > 1 else family
        order = _order(at.context, variant, key, dataset, classifiers[0], labels, made)
        return _learn(at, order)

    segmenter = learned(labels, rounds[0])
    for made in rounds[1:]:
        run = records.stage_run(at.run, "relabel", made.labels, family)
        new = relabel(at.context, variant, labels, segmenter, dataset, experts.held, made.labels)
        records.finish_pseudolabels(run, new)
        at.say(describe_round(new))
        if not new.summary["kept"]:
            break
        labels, segmenter = new, learned(new, made)
    return Pretrained(labels, segmenter)


def labels_tracked(
    at: Tracked, experiment: Experiment, family: str, dataset: Artifact, experts: Experts
) -> tuple[list[Artifact], Artifact]:
    """Return a family's classifiers, and its pseudo-labels before any self-distillation."""
    variant = experiment.family(family)
    classifiers = classify_tracked(at, variant, dataset)
    labels = explain_tracked(at, variant, dataset, classifiers, experts)
    return classifiers, labels


def _order(
    context: Context,
    variant: Experiment,
    key: str,
    dataset: Artifact,
    classifier: Artifact,
    labels: Artifact,
    made: plan.Round,
) -> Order:
    wish = variant.pretraining
    return Order(
        key=key,
        print_=made.segmenter,
        settings=wish,
        masks=Masks(dataset, valid=None, pseudolabels=labels, classes=variant.saliency.names),
        start=start_of(wish, classifier, context.weights),
        seeds=(variant.seed, 0),
        about={"arm": key},
    )


def _learn(at: Tracked, order: Order) -> Artifact:
    run = records.stage_run(at.run, "pretrain", order.print_, order.key)
    (segmenter,) = train_orders(
        at.context, "pretrain", [order], lambda _, note: records.log_note(run, note)
    )
    records.finish(run, segmenter)
    return segmenter


def describe_round(labels: Artifact) -> str:
    """Say which classes a round of self-distillation bettered, and by how much."""
    before, after = ({r["finding"]: r["pooled"] for r in rows} for rows in _judged(labels))
    kept = labels.summary["kept"]
    if not kept:
        return "self-distillation  betters no class on the held patients: the labels stay"
    told = ", ".join(f"{name} {before.get(name, 0.0):.3f} to {after[name]:.3f}" for name in kept)
    return f"self-distillation  pooled IoU on the held patients: {told}; the others stay"


def _judged(labels: Artifact) -> Sequence[Sequence[dict[str, float]]]:
    judged = labels.summary["judged"]
    return judged["before"], judged["after"]
