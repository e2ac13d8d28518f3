"""The command that runs another one on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from chexseg_platform.cli.common import (
    experiment_argument,
    options,
    sentences,
    set_option,
    workspace_option,
)

if TYPE_CHECKING:
    from chexseg_platform.stages.submission import Job

STAGES = (
    "run", "tune", "ingest", "classify", "explain", "segment", "evaluate", "pretrain", "finetune",
)  # fmt: skip


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("stage", type=click.Choice(STAGES), metavar="STAGE")
@experiment_argument
@click.argument("others", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF THE STAGE]...")
@click.option(
    "--address",
    metavar="URL",
    help="Of the cluster's job server. Default: RAY_API_SERVER_ADDRESS, or a cluster here.",
)
@click.option("--no-wait", is_flag=True, help="Submit the job and leave it to itself.")
@options(set_option, workspace_option)
@sentences
def submit(
    stage: str,
    experiment: str,
    others: Sequence[str],
    address: str | None,
    no_wait: bool,
    overrides: Sequence[str],
    workspace: str,
) -> None:
    """Run a command on a cluster, as a job.

    STAGE is run, tune, pretrain, finetune, or a single stage: ingest, classify, explain, segment,
    evaluate. This package and the experiment file go to the cluster, data does not. What the job
    prints is shown here, and its exit code is this command's. Ctrl-C asks whether the job is to
    stop as well.

    \b
      chexseg-platform submit tune mix.yaml --address http://127.0.0.1:8265 -w s3://bucket/work
    """
    from chexseg_platform.stages import submission

    command = submission.command_of(
        stage, experiment, workspace=workspace, overrides=overrides, others=others
    )
    job = submission.submit(address, experiment, command)
    click.echo(f"job {job.name}", err=True)
    if no_wait:
        click.echo(f"Follow it: {submission.again(job)}", err=True)
        return
    try:
        code = submission.follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        code = _interrupted(job)
    sys.exit(code)


def _interrupted(job: Job) -> int:
    """Ask what is to become of the job; return the exit code."""
    from chexseg_platform.stages import submission

    click.echo(err=True)
    if not (sys.stdin.isatty() and click.confirm("Stop the job, too?", err=True)):
        click.echo(f"The job goes on. Follow it: {submission.again(job)}", err=True)
        return 130
    submission.stop(job)
    submission.follow(job, lambda text: click.echo(text, nl=False))
    return 130
