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

FILE = click.Path(exists=True, dir_okay=False)
RADIOLOGISTS = "radiologists"
"""As `evaluation.comparison` calls them; not imported, for it takes NumPy's time to start."""


@click.command()
@click.argument("experiment", type=click.Path(), required=False)
@options(set_option, workspace_option, tracking_option)
@click.option("--truth", type=FILE, help="Segmentations or annotations (JSON), as CheXlocalize's.")
@click.option(
    "--prediction",
    "predictions",
    multiple=True,
    metavar="[NAME=]PATH",
    help="The same, or a folder of heat maps. Repeat it to compare methods: `mix`, or the last "
    "one, with each of the others.",
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
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for tables and counts: a new or an empty one.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace files of the same names in it.")
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
    ctx = click.get_current_context()
    if experiment and not truth and not predictions:
        _refuse(ctx, ("readers", "points", "table", "threshold", "boundary", "by", "resamples",
                      "output", "overwrite"), "belongs to --truth and --prediction")  # fmt: skip
        run_stage("evaluate", experiment, overrides, workspace, no_tracking)
        return
    if experiment or not truth or not predictions:
        raise click.UsageError(
            "Give an experiment file, or --truth and --prediction; see evaluate --help."
        )
    _refuse(ctx, ("overrides", "workspace", "no_tracking"), "belongs to an experiment")
    _files(truth, predictions, **wishes)


def _refuse(ctx: click.Context, names: Sequence[str], why: str) -> None:
    """Say which option would have no effect."""
    given = click.core.ParameterSource.COMMANDLINE
    for option in ctx.command.params:
        if option.name in names and ctx.get_parameter_source(option.name) == given:
            raise click.UsageError(f"{option.opts[-1]} {why}.")


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
    output: Path | None,
    overwrite: bool,
) -> None:
    from chexseg_platform.data.chexlocalize import read_points
    from chexseg_platform.evaluation import files, matching, tables
    from chexseg_platform.evaluation.comparison import compare, roles_among
    from chexseg_platform.evaluation.counts import cube
    from chexseg_platform.evaluation.folder import write_folder
    from chexseg_platform.progress import Progress

    named = _named(predictions)
    if points and not readers:
        raise click.UsageError("--points belong to second readers: give --readers too.")
    if threshold is not None and not any(Path(path).is_dir() for path in named.values()):
        raise click.UsageError("--threshold cuts heat maps, and no --prediction is a folder.")
    _make(output, overwrite)
    # What is read in seconds comes before maps that take minutes.
    experts = files.read_truth(truth, table)
    second = files.read_drawn(readers) if readers else None
    if second is not None:
        matching.check_images(experts, "The readers' file", second)
    pointed = read_points(points) if points else None
    order = sorted(named, key=lambda name: Path(named[name]).is_dir())
    methods = {name: _read(name, named[name], experts, threshold) for name in order}
    methods = {name: methods[name] for name in named}
    with Progress("evaluate", None, "images") as progress:
        counted, notes = matching.count_files(
            experts,
            methods,
            readers=second,
            points=pointed,
            boundary=boundary,
            tick=lambda done: progress.update(advance=done),
        )
    whole = cube(counted)
    result = compare(whole, roles=roles_among(list(methods)), cluster=by, resamples=resamples)
    result = matching.with_notes(result, notes)
    click.echo(tables.text(result))
    if output:
        own = {name: said.masks.keys() for name, said in methods.items()}
        own |= {} if second is None else {RADIOLOGISTS: second.masks.keys()}
        write_folder(output, counted, whole, result, set(experts.masks), own)
        click.echo(f"Tables, counts and CheXlocalize's own numbers: {output}")


def _make(output: Path | None, overwrite: bool) -> None:
    """Make the folder, before any work."""
    if output is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        occupied = any(output.iterdir())
    except OSError as error:
        raise click.UsageError(f"-o {output}: {error.strerror}.") from None
    if occupied and not overwrite:
        raise click.UsageError(f"-o {output} is not empty: name a new folder, or add --overwrite.")


def _named(predictions: Sequence[str]) -> dict[str, str]:
    from chexseg_platform.evaluation.folder import folder_name

    found: dict[str, str] = {}
    for given in predictions:
        name, equals, path = given.partition("=")
        if not equals or Path(given).exists():
            name, path = Path(given).stem, given
        if not Path(path).exists():
            raise click.UsageError(f"--prediction {given}: there is no {path}.")
        if name in (RADIOLOGISTS, "", "."):
            raise click.UsageError(f"--prediction {given}: give it another name, as NAME=PATH.")
        if folder_name(name) in map(folder_name, found):
            raise click.UsageError(f"Two predictions are called {name!r}: name them NAME=PATH.")
        found[name] = path
    return found


def _read(name: str, path: str, truth: Truth, threshold: float | None) -> Predicted:
    from chexseg_platform.evaluation import files, matching
    from chexseg_platform.progress import Progress

    if not Path(path).is_dir():
        found = files.read_drawn(path)
        matching.check_images(truth, name, found)
        return found
    sizes = {image_id: (m.height, m.width) for image_id, m in truth.masks.items()}
    with Progress(f"maps of {name}", None, "maps") as progress:
        return files.read_heat_maps(
            path, sizes, threshold, lambda done: progress.update(advance=done)
        )
