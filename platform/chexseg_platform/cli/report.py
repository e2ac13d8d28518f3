"""`chexseg-platform report`: runs as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from chexseg_platform.cli.common import options, sentences, workspace_option


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where to write the page.",
)
@click.option(
    "--no-maps", is_flag=True, help="Do not make saliency maps again: show masks and peaks alone."
)
@options(workspace_option)
@sentences
def report(runs: Sequence[str], output: Path, no_maps: bool, workspace: str) -> None:
    """Make an HTML page of a run, or of several.

    RUN is an experiment's name (its latest comparison, sweep and fine-tuning), the folder of one
    of these as `run`, `tune` and `finetune` print it, or the id of a run in MLflow. The page is one
    file that loads nothing from elsewhere.
    """
    from chexseg_platform.artifacts import Workspace
    from chexseg_platform.stages.report import report as write

    click.echo(f"Report: {write(Workspace(workspace), runs, output, maps=not no_maps)}")
