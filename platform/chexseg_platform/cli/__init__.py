"""The command line: parse, build one config, call one stage.

Imports of Ray, torch and MLflow cost seconds, so they happen in the commands that need them, and
`--help` answers at once. Errors that a person can mend are one sentence; `--verbose` adds the
traceback.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import click

from chexseg_platform import __version__
from chexseg_platform.cli.common import (
    Sections,
    cluster,
    dry_option,
    experiment_argument,
    open_experiment,
    options,
    problems_of,
    run_stage,
    say_where_to_look,
    sentences,
    set_option,
    stop_on_problems,
    tracker_of,
    tracking_option,
    workspace_option,
)
from chexseg_platform.cli.data import data
from chexseg_platform.cli.evaluate import evaluate
from chexseg_platform.cli.finetune import finetune, pretrain
from chexseg_platform.cli.predict import predict
from chexseg_platform.cli.report import report
from chexseg_platform.cli.submit import submit


@click.group(
    cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "-V", "--version")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks and Ray's own messages.")
@click.pass_context
def main(ctx: click.Context, verbose: bool) -> None:
    """Segment chest X-rays from few expert masks and many image labels.

    \b
    A first try, on X-ray phantoms made on the spot:
      chexseg-platform run experiments/demo.yaml
      chexseg-platform ui
    On your own data: copy experiments/chexseg.yaml, change its paths, then
      chexseg-platform check my.yaml
      chexseg-platform run my.yaml
    Running a command again continues where it was cut off.
    """
    ctx.obj = verbose
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    logging.getLogger("chexseg_platform").setLevel(level)


@main.command()
@experiment_argument
@options(set_option, workspace_option, tracking_option, dry_option)
@sentences
def run(
    experiment: str, overrides: Sequence[str], workspace: str, no_tracking: bool, dry_run: bool
) -> None:
    """Run an experiment: every stage, then the comparison.

    Data, classifier, saliency, pseudo-masks, one segmenter an arm and seed, and a table with
    intervals. What is finished is skipped.
    """
    from chexseg_platform.plan import Plan, render

    loaded, context = open_experiment(experiment, overrides, workspace)
    stop_on_problems(loaded, context, arms=True)
    chain = Plan.of(loaded.experiment, context.workspace)
    click.echo(render(loaded.experiment, chain, context.workspace))
    if dry_run:
        return
    from chexseg_platform.stages.experiment import run as run_experiment

    with cluster(), tracker_of(loaded, context, no_tracking) as tracker:
        comparison = run_experiment(context, loaded.experiment, chain, tracker, click.echo)
    click.echo()
    click.echo(comparison.read("comparison.txt").decode())
    click.echo(f"Tables, plots and counts: {comparison.uri}")
    say_where_to_look(context, workspace, no_tracking)


@main.command()
@experiment_argument
@options(set_option, workspace_option, tracking_option, dry_option)
@sentences
def tune(
    experiment: str, overrides: Sequence[str], workspace: str, no_tracking: bool, dry_run: bool
) -> None:
    """Sweep the expert/pseudo mix, or any fields, with Ray Tune.

    The winner is chosen on validation patients and evaluated once on the test images. An
    interrupted sweep continues.
    """
    loaded, context = open_experiment(experiment, overrides, workspace)
    stop_on_problems(loaded, context, sweep=True)
    from chexseg_platform.stages.sweep import describe, sweep

    click.echo(describe(loaded.experiment, context.workspace))
    if dry_run:
        return
    with cluster(), tracker_of(loaded, context, no_tracking) as tracker:
        found = sweep(context, loaded.experiment, tracker, click.echo)
    click.echo()
    click.echo(found.read("sweep.txt").decode())
    click.echo(f"Table and plot: {found.uri}")
    say_where_to_look(context, workspace, no_tracking)


main.add_command(pretrain)
main.add_command(finetune)
main.add_command(submit)
main.add_command(report)


@main.command()
@experiment_argument
@options(set_option, workspace_option)
@sentences
def check(experiment: str, overrides: Sequence[str], workspace: str) -> None:
    """Check an experiment before any work.

    In seconds: paths, tables, masks, splits, models, weights, storage; every problem at once.
    """
    from chexseg_platform.preflight import render

    loaded, context = open_experiment(experiment, overrides, workspace)
    wish = loaded.experiment
    problems = problems_of(
        loaded,
        context,
        arms=True,
        sweep=wish.tune is not None,
        pretrain=wish.pretrain is not None,
        finetune=wish.finetune is not None,
    )
    click.echo(render(problems))
    if any(problem.fatal for problem in problems):
        sys.exit(1)


def _stage_command(name: str, help_: str) -> None:
    @main.command(name, help=help_)
    @experiment_argument
    @options(set_option, workspace_option, tracking_option)
    @sentences
    def command(
        experiment: str, overrides: Sequence[str], workspace: str, no_tracking: bool
    ) -> None:
        run_stage(name, experiment, overrides, workspace, no_tracking)


_stage_command("ingest", "Read an experiment's images and masks into a dataset.")
_stage_command("classify", "Train an experiment's classifier.")


@main.command()
@experiment_argument
@options(set_option, workspace_option, tracking_option)
@click.option("--num-workers", type=click.IntRange(1), help="Default: two a GPU, or one a CPU.")
@click.option("--batch-size", type=click.IntRange(1), help="Images at a time. Default: 64.")
@click.option("--overlays", type=click.IntRange(0), default=0, help="Pages of maps to draw.")
@click.option(
    "--compare",
    "compared",
    metavar="METHOD,...",
    help="Only compare saliency methods with the experts' masks of validation images, "
    "e.g. grad-cam,integrated-gradients,deeplift.",
)
@sentences
def explain(
    experiment: str,
    overrides: Sequence[str],
    workspace: str,
    no_tracking: bool,
    num_workers: int | None,
    batch_size: int | None,
    overlays: int,
    compared: str | None,
) -> None:
    """Turn a classifier's saliency into pseudo-masks.

    Or compare saliency methods before one is chosen: see --compare.
    """
    from chexseg_platform.plan import Plan
    from chexseg_platform.stages.experiment import run_explain
    from chexseg_platform.stages.methods import parse

    methods = [] if compared is None else parse(compared)
    wishes = {"saliency_workers": num_workers, "saliency_batch": batch_size}
    given = [f"resources.{name}={value}" for name, value in wishes.items() if value is not None]
    loaded, context = open_experiment(experiment, [*overrides, *given], workspace)
    stop_on_problems(loaded, context)
    chain = Plan.of(loaded.experiment, context.workspace)
    with cluster(), tracker_of(loaded, context, no_tracking) as tracker:
        made = run_explain(
            context,
            loaded.experiment,
            chain,
            tracker,
            click.echo,
            pages=overlays,
            methods=methods,
        )
    if made is not None:
        click.echo(f"{made.kind}  {made.uri}")
    say_where_to_look(context, workspace, no_tracking)


_stage_command("segment", "Train every arm's segmenters.")
main.add_command(evaluate)
main.add_command(predict)
main.add_command(data)


@main.group()
def config() -> None:
    """Look at experiment files."""


@config.command()
@experiment_argument
@set_option
@sentences
def show(experiment: str, overrides: Sequence[str]) -> None:
    """Print every setting and where it comes from: default, file line or --set."""
    from chexseg_platform.configfile import load
    from chexseg_platform.configfile import show as render

    click.echo(render(load(experiment, overrides)))


@main.command("fetch-weights")
@click.argument("encoder")
@click.option("--cache", type=click.Path(file_okay=False), help="Default: the user's cache folder.")
@sentences
def fetch_weights(encoder: str, cache: str | None) -> None:
    """Download ImageNet weights, once.

    Nothing else ever downloads anything.
    """
    from chexseg_platform.data.store import cache_folder
    from chexseg_platform.models.encoder import fetch_weights as fetch

    click.echo(f"Weights of {encoder}: {fetch(encoder, cache_folder(cache) / 'weights')}")


@main.command()
@workspace_option
@click.option("--port", default=5000, show_default=True)
@sentences
def ui(workspace: str, port: int) -> None:
    """Open MLflow's pages on this machine."""
    from chexseg_platform.tracking import ui as serve

    sys.exit(serve(workspace, port=port))


@main.command()
@workspace_option
@sentences
def replay(workspace: str) -> None:
    """Send what a tracking server missed while it was down."""
    from chexseg_platform.tracking import StoreAway, journals
    from chexseg_platform.tracking import replay as send

    waiting = False
    for journal in journals(workspace):
        try:
            left = send(journal)
            said = f"{left} records still wait: send them by the same command" if left else ""
        except StoreAway as error:
            said = str(error)
        click.echo(f"{journal.name}: {said or 'all sent'}", err=bool(said))
        waiting = waiting or bool(said)
    if waiting:
        sys.exit(1)


@main.command()
@workspace_option
@sentences
def doctor(workspace: str) -> None:
    """Check this machine, and say how to mend what is wrong."""
    from chexseg_platform.doctor import examine, render

    checks = examine(workspace)
    click.echo(render(checks))
    if any(item.state == "fail" for item in checks):
        sys.exit(1)
