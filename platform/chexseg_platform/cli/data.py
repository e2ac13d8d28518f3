"""`chexseg-platform data`: phantoms; tables and collections read without an experiment file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from chexseg_platform.cli.common import (
    Command,
    Sections,
    cluster,
    open_workspace,
    options,
    sentences,
    workspace_option,
)


@click.group(cls=Sections)
def data() -> None:
    """Make phantoms; read CheXpert, CheXlocalize, organ masks."""


@data.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--train", default=600, show_default=True, help="Training images.")
@click.option("--valid", default=120, show_default=True, help="Validation images.")
@click.option("--test", default=120, show_default=True, help="Test images.")
@click.option("--size", default=256, show_default=True, help="Longer side, pixels.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--layout",
    type=click.Choice(["chexpert", "jsrt", "covid-qu-ex", "montgomery", "shenzhen", "folder"]),
    default="chexpert",
    show_default=True,
    help="chexpert: findings; the others: organs and infection, as these collections lie on disk.",
)
@sentences
def phantom(
    out: Path, train: int, valid: int, test: int, size: int, seed: int, layout: Any
) -> None:
    """Draw chest X-ray phantoms in the layouts of real collections."""
    from chexseg_platform.data.phantom import write_phantom
    from chexseg_platform.progress import Progress

    if train + valid + test == 0:
        raise click.UsageError("nothing to draw: give --train, --valid or --test a number above 0")
    with Progress("phantom", train + valid + test, "images") as progress:
        write_phantom(
            out,
            train=train,
            valid=valid,
            test=test,
            size=size,
            seed=seed,
            layout=layout,
            progress=lambda done, _: progress.update(done=done),
        )
    use = (
        "`data.tables` as experiments/chexseg.yaml does"
        if layout == "chexpert"
        else "`chexseg-platform data masks`, or as a task's `collections` in `finetune.tasks`"
    )
    click.echo(f"Written to {out}. Use it with {use}.")


size_option = click.option(
    "--size",
    type=click.IntRange(32, 2048),
    default=320,
    show_default=True,
    help="Side of the images.",
)
rejected_option = click.option(
    "--max-rejected",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of unusable inputs allowed.",
)
file_type = click.Path(dir_okay=False)
table_argument = click.argument("table", type=file_type)
root_option = click.option(
    "--root", type=click.Path(file_okay=False), help="Folder that the CSV's paths start from."
)


def _split_option(default: str, *choices: str) -> Callable[[Command], Command]:
    return click.option(
        "--split", default=default, show_default=True, type=click.Choice(list(choices))
    )


@data.command()
@table_argument
@_split_option("train", "train", "valid", "test")
@root_option
@click.option("--plus", is_flag=True, help="The table is CheXpert Plus's.")
@click.option("--labels", type=file_type, help="Other labels for the same images.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first images.")
@options(size_option, rejected_option, workspace_option)
@sentences
def chexpert(plus: bool, size: int, max_rejected: float, workspace: str, **table: Any) -> None:
    """Read a CheXpert (or CheXpert Plus) table and its images."""
    layout = "chexpert-plus" if plus else "chexpert"
    _ingest({"tables": [{**table, "layout": layout}]}, size, max_rejected, workspace)


@data.command()
@table_argument
@click.option(
    "--truth", required=True, type=file_type, help="gt_segmentations_*.json or gt_annotations_*."
)
@click.option("--benchmark", type=file_type, help="hb_segmentations_*.json.")
@click.option("--points", type=file_type, help="hb_salient_pt_*.json.")
@_split_option("test", "valid", "test")
@root_option
@options(size_option, rejected_option, workspace_option)
@sentences
def chexlocalize(size: int, max_rejected: float, workspace: str, **table: Any) -> None:
    """Read CheXlocalize's images (TABLE: valid.csv or test_labels.csv) and expert masks."""
    _ingest({"tables": [table]}, size, max_rejected, workspace)


@data.command()
@click.argument("root", type=click.Path(file_okay=False))
@click.option(
    "--layout",
    type=click.Choice(["jsrt", "covid-qu-ex", "montgomery", "shenzhen", "folder"]),
    default="folder",
    show_default=True,
    help="folder: images/NAME.png and masks/STRUCTURE/NAME.png.",
)
@click.option("--masks", type=click.Path(file_okay=False), help="Masks that lie apart (SCR's).")
@click.option(
    "--tree",
    type=click.Choice(["infection", "lungs"]),
    default="infection",
    show_default=True,
    help="Of COVID-QU-Ex.",
)
@click.option(
    "--test-fold", type=click.IntRange(1, 2), default=2, show_default=True, help="Of SCR."
)
@click.option("--limit", type=click.IntRange(min=1), help="Only so many, evenly from all splits.")
@options(size_option, rejected_option, workspace_option)
@sentences
def masks(size: int, max_rejected: float, workspace: str, **collection: Any) -> None:
    """Read a collection of images and mask files: JSRT, COVID-QU-Ex, ... (ROOT: its folder)."""
    _ingest({"collections": [collection]}, size, max_rejected, workspace)


def _ingest(source: dict[str, Any], size: int, max_rejected: float, workspace: str) -> None:
    """Read a table or a collection into a dataset, without an experiment file."""
    from chexseg_platform.config import Data, Resources
    from chexseg_platform.stages.context import Context
    from chexseg_platform.stages.ingest import ingest

    wish = Data.model_validate({**source, "size": size, "max_rejected": max_rejected})
    context = Context(open_workspace(workspace), Resources())
    with cluster():
        dataset = ingest(context, wish)
    for name, counts in dataset.summary["splits"].items():
        click.echo(
            f"{name}: {counts['images']:,} images of {counts['patients']:,} patients, "
            f"{counts['expert images']:,} with expert masks"
        )
        # Datasets of earlier versions do not say what was drawn, or what of it is there.
        drawn = counts.get("drawn", {})
        shown = counts.get("shown", drawn)
        if drawn:
            told = (_drawn(name, count, shown.get(name, 0)) for name, count in drawn.items())
            click.echo(f"  {', '.join(told)}")
    if doubles := dataset.summary.get("doubles"):
        click.echo(f"{doubles:,} copies of other images left out, listed in rejected.parquet")
    rejected = sum(dataset.summary["rejected"].values())
    click.echo(f"{rejected} rejected. {dataset.uri}")


def _drawn(name: str, count: int, shown: int) -> str:
    """Say on how many images a structure was drawn, and on how many there is nothing of it."""
    return f"{name} on {count:,}" + (f" ({count - shown:,} of them empty)" if shown < count else "")
