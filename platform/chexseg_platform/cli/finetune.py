"""The commands of pre-training and fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from chexseg_platform.cli.common import (
    cluster,
    dry_option,
    experiment_argument,
    open_experiment,
    options,
    say_where_to_look,
    sentences,
    set_option,
    stop_on_problems,
    tracker_of,
    tracking_option,
    workspace_option,
)


@click.command()
@experiment_argument
@click.option(
    "--family", "families", multiple=True, help="Of pretrain.families; by default all. Repeatable."
)
@click.option("--labels", is_flag=True, help="Only make the labels and compare them.")
@options(set_option, workspace_option, tracking_option, dry_option)
@sentences
def pretrain(
    experiment: str,
    families: Sequence[str],
    labels: bool,
    overrides: Sequence[str],
    workspace: str,
    no_tracking: bool,
    dry_run: bool,
) -> None:
    """Pre-train whole segmenters on pseudo-labels.

    Classifiers, maps, labels and their self-distillation, segmenter; then how well each family's
    labels lie where experts drew.
    """
    loaded, context = open_experiment(experiment, overrides, workspace)
    stop_on_problems(loaded, context, pretrain=True)
    from chexseg_platform.plan import render_families
    from chexseg_platform.stages.pretrain import named
    from chexseg_platform.stages.pretrain import pretrain as run

    names = named(loaded.experiment, families)
    click.echo(render_families(loaded.experiment, names, context.workspace))
    if dry_run:
        return
    with cluster(), tracker_of(loaded, context, no_tracking) as tracker:
        made = run(context, loaded.experiment, names, tracker, click.echo, labels_only=labels)
    for name, artifact in made.items():
        click.echo(f"{name}: {artifact.kind}  {artifact.uri}")
    say_where_to_look(context, workspace, no_tracking)


@click.command()
@experiment_argument
@click.option(
    "--task",
    "names",
    multiple=True,
    metavar="TASK|FOLDER",
    help="lungs, heart, clavicles, organs, covid-infection, another of finetune.tasks, or a folder "
    "with images/ and masks/STRUCTURE/; by default all tasks. Repeatable.",
)
@options(set_option, workspace_option, tracking_option, dry_option)
@sentences
def finetune(
    experiment: str,
    names: Sequence[str],
    overrides: Sequence[str],
    workspace: str,
    no_tracking: bool,
    dry_run: bool,
) -> None:
    """Fine-tune segmenters on few expert masks.

    Every task, initialisation, fraction of the images and seed, as one run of Ray Tune; then
    label-efficiency curves, Dice and IoU with intervals, and steps to the best score.
    """
    from chexseg_platform import tasks

    loaded, context = open_experiment(experiment, overrides, workspace)
    loaded = replace(loaded, experiment=tasks.narrowed(loaded.experiment, names))
    stop_on_problems(loaded, context, finetune=True)
    cells = tasks.cells_of(loaded.experiment, context.workspace)
    click.echo(tasks.render(loaded.experiment, cells, context.workspace))
    if dry_run:
        return
    from chexseg_platform.stages.finetune import finetune as run

    with cluster(), tracker_of(loaded, context, no_tracking) as tracker:
        found = run(context, loaded.experiment, cells, tracker, click.echo)
    click.echo()
    click.echo(found.read("finetuning.txt").decode())
    click.echo(f"Tables and curves: {found.uri}")
    say_where_to_look(context, workspace, no_tracking)
