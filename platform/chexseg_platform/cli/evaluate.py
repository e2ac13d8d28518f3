"""`evaluate`: an experiment's methods, or anybody's files against anybody's truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chexseg_platform.cli.common import (
    options,
    run_stage,
    sentences,
    set_option,
    tracking_option,
    workspace_option,
)

if TYPE_CHECKING:
    from chexseg_platform.evaluation.bootstrap import Cluster
    from chexseg_platform.evaluation.files import Predicted, Truth

FILE = click.Path(exists=True)


@click.command()
@click.argument("experiment", type=click.Path(), required=False)
@options(set_option, workspace_option, tracking_option)
@click.option("--truth", type=FILE, help="Segmentations or annotations (JSON), as CheXlocalize's.")
@click.option(
    "--prediction",
    "predictions",
    multiple=True,
    metavar="[NAME=]PATH",
    help="The same, or a folder of heat maps. Repeat it to compare methods, in pairs.",
)
@click.option("--readers", type=FILE, help="Second readers' masks, as CheXlocalize's hb_ files.")
@click.option("--points", type=FILE, help="Second readers' points, for their hit rate.")
@click.option("--table", type=FILE, help="CheXpert's table of the images: sex, age, view, labels.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Where heat maps are cut, after their range is brought to 0 to 1. Default: Otsu's.",
)
@click.option("--boundary", is_flag=True, help="Measure outlines' distances too (slower).")
@click.option("--by", type=click.Choice(["patient", "image"]), default="patient", show_default=True,
              help="What intervals draw again.")  # fmt: skip
@click.option("--resamples", type=click.IntRange(2), default=1000, show_default=True)
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Folder for tables, counts.")
@sentences
def evaluate(
    experiment: str | None,
    overrides: Sequence[str],
    workspace: str,
    no_tracking: bool,
    truth: str | None,
    predictions: Sequence[str],
    **wishes: Any,
) -> None:
    """Count masks against the experts', any files' too.

    \b
    An experiment's methods:
      chexseg-platform evaluate my.yaml
    Any files in CheXlocalize's formats, and its own numbers beside ours in -o:
      chexseg-platform evaluate --truth gt_segmentations_test.json \\
          --prediction mine=pred_segmentations_test.json -o results

    IoU on true positives (A), on non-empty unions (B) and pooled (C), Dice, precision, recall,
    hit rate; intervals over patients, paired differences, subgroups.
    """
    if experiment and not truth and not predictions:
        run_stage("evaluate", experiment, overrides, workspace, no_tracking)
        return
    if experiment or not truth or not predictions:
        raise click.UsageError(
            "Give an experiment file, or --truth and --prediction; see evaluate --help."
        )
    _files(truth, predictions, **wishes)


def _files(
    truth: str,
    predictions: Sequence[str],
    *,
    readers: str | None,
    points: str | None,
    table: str | None,
    threshold: float | None,
    boundary: bool,
    by: Cluster,
    resamples: int,
    output: str | None,
) -> None:
    from chexseg_platform.data.chexlocalize import read_points
    from chexseg_platform.evaluation import files, tables
    from chexseg_platform.evaluation.comparison import compare, roles_among
    from chexseg_platform.evaluation.counts import cube
    from chexseg_platform.progress import Progress

    named = _named(predictions)
    experts = files.read_truth(truth, table)
    methods = {name: _read(name, path, experts, threshold) for name, path in named.items()}
    second = files.read_drawn(readers) if readers else None
    with Progress("evaluate", None, "images") as progress:
        counted, notes = files.count_files(
            experts,
            methods,
            readers=second,
            points=read_points(points) if points else None,
            boundary=boundary,
            tick=lambda done: progress.update(advance=done),
        )
    whole = cube(counted)
    result = compare(whole, roles=roles_among(list(methods)), cluster=by, resamples=resamples)
    result = files.with_notes(result, notes)
    click.echo(tables.text(result))
    if output:
        from chexseg_platform.evaluation.folder import write_folder

        write_folder(Path(output), counted, whole, result, set(experts.masks))
        click.echo(f"Tables, counts and CheXlocalize's own numbers: {output}")


def _named(predictions: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for given in predictions:
        name, equals, path = given.partition("=")
        if not equals or Path(given).exists():
            name, path = Path(given).stem, given
        if not Path(path).exists():
            raise click.UsageError(f"--prediction {given}: there is no {path}.")
        if name in found:
            raise click.UsageError(f"Two predictions are called {name!r}: name them NAME=PATH.")
        found[name] = path
    return found


def _read(name: str, path: str, truth: Truth, threshold: float | None) -> Predicted:
    from chexseg_platform.evaluation import files
    from chexseg_platform.progress import Progress

    if not Path(path).is_dir():
        return files.read_drawn(path)
    sizes = {image_id: (m.height, m.width) for image_id, m in truth.masks.items()}
    with Progress(f"maps of {name}", None, "maps") as progress:
        return files.read_heat_maps(
            path, sizes, threshold, lambda done: progress.update(advance=done)
        )
