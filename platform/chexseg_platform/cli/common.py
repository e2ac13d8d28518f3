"""What every command shares: options, one-sentence errors, opening an experiment.

Imports of Ray, torch and MLflow cost seconds, so they happen in the functions that need them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from chexseg_platform.artifacts import Workspace
    from chexseg_platform.configfile import Loaded
    from chexseg_platform.preflight import Problem
    from chexseg_platform.stages.context import Context
    from chexseg_platform.tracking import Tracker

Command = TypeVar("Command", bound=Callable[..., Any])


class Sections(click.Group):
    """Lists commands in the order in which a person meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def sentences(command: Command) -> Command:
    """Turn every error into one line and exit code 1; `--verbose` shows where it came from."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        verbose = bool(click.get_current_context().find_root().obj)
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:  # the reader, `head` say, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("\nStopped. What is finished is kept: the same command continues.", err=True)
            sys.exit(130)
        except Exception as error:
            if verbose:
                raise
            raise click.ClickException(_text(error)) from None

    return wrapped  # type: ignore[return-value]


def _text(error: Exception) -> str:
    """What a person can mend in its own words; anything else as the program's fault that it is."""
    text = str(error).strip()
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, ValueError) and text:
        return text
    if isinstance(error, OSError):
        return named
    if isinstance(error, MemoryError):
        return "this machine ran out of memory: close other programs, or lower the batch sizes"
    if type(error).__module__.startswith("ray."):
        from chexseg_platform.stages.errors import sentence

        return sentence(error)
    first = named.splitlines()[0]
    return f"{first} (a fault of the program: `chexseg-platform --verbose ...` shows where)"


def options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


workspace_option = click.option(
    "-w",
    "--workspace",
    default="workspace",
    show_default=True,
    envvar="CHEXSEG_WORKSPACE",
    help="Folder (or s3://, gs://) for everything that is made.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Override a field of the experiment, e.g. segmenter.lr=3e-4. May be repeated.",
)
experiment_argument = click.argument("experiment", type=click.Path())
dry_option = click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
tracking_option = click.option(
    "--no-tracking", is_flag=True, help="Do not record anything in MLflow."
)


def open_workspace(uri: str) -> Workspace:
    from chexseg_platform.artifacts import Workspace

    workspace = Workspace(uri)
    workspace.check_writable()
    return workspace


def open_experiment(
    experiment: str, overrides: Sequence[str], workspace: str
) -> tuple[Loaded, Context]:
    """Read the experiment file and open the workspace."""
    from chexseg_platform.configfile import load

    loaded = load(experiment, overrides)
    opened = open_workspace(workspace)
    from chexseg_platform.stages.context import Context

    return loaded, Context(opened, loaded.experiment.resources)


def problems_of(loaded: Loaded, context: Context, **trained: bool) -> list[Problem]:
    """Return what is wrong; `trained` is what will be, as `preflight.check` takes it."""
    from chexseg_platform.preflight import check as look

    wish = {"arms": False} | trained
    return look(loaded.experiment, context.workspace, context.weights, **wish)


def stop_on_problems(loaded: Loaded, context: Context, **trained: bool) -> None:
    """Say every fatal problem at once, before any work; `trained` as in `problems_of`."""
    problems = problems_of(loaded, context, **trained)
    fatal = [problem.text for problem in problems if problem.fatal]
    if fatal:
        raise click.ClickException("\n".join(fatal))


@contextmanager
def cluster() -> Iterator[None]:
    """Leave Ray in the end, however a command ends.

    Enter it before a tracker: a command that is told to end has little time, and how its runs
    ended comes first.
    """
    from chexseg_platform.cluster import disconnect

    try:
        yield
    finally:
        disconnect()


def tracker_of(loaded: Loaded, context: Context, off: bool) -> Tracker:
    from chexseg_platform.tracking import open_tracker

    return open_tracker(context.workspace.uri, loaded.experiment.name, enabled=not off)


def say_where_to_look(context: Context, workspace: str, no_tracking: bool) -> None:
    click.echo(context.where_time_went())
    if no_tracking:
        return
    if os.environ.get("MLFLOW_TRACKING_URI"):
        click.echo("Browse it in MLflow.")
    else:
        where = "" if workspace == "workspace" else f" --workspace {workspace}"
        click.echo(f"Browse it: chexseg-platform ui{where}")


def run_stage(
    name: str, experiment: str, overrides: Sequence[str], workspace: str, no_tracking: bool
) -> None:
    """Run an experiment up to a stage, and say what it made."""
    from chexseg_platform.plan import Plan
    from chexseg_platform.stages.experiment import run_until

    loaded, context = open_experiment(experiment, overrides, workspace)
    stop_on_problems(loaded, context, arms=name not in ("ingest", "classify"))
    chain = Plan.of(loaded.experiment, context.workspace)
    with cluster(), tracker_of(loaded, context, no_tracking) as tracker:
        for artifact in run_until(name, context, loaded.experiment, chain, tracker, click.echo):
            click.echo(f"{artifact.kind}  {artifact.uri}")
    click.echo(context.where_time_went())
