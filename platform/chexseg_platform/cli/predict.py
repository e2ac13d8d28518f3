"""`chexseg-platform predict`: masks of image files by a finished segmenter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chexseg_platform.cli.common import sentences

if TYPE_CHECKING:
    from chexseg_platform.prediction.run import Outcome


@click.command(short_help="Segment image files with a finished segmenter.")
@click.argument("model")
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE|DIR...", type=click.Path(path_type=Path)
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the predictions: a new or an empty one.",
)
@click.option(
    "-f",
    "--format",
    "formats",
    multiple=True,
    metavar="FORMAT,...",
    help="png, chexlocalize, coco, dicom-seg. Default: png, and chexlocalize if it fits.",
)
@click.option("--overlay", is_flag=True, help="Draw a picture an image, masks outlined.")
@click.option("--overwrite", is_flag=True, help="Replace the predictions that OUT holds.")
@sentences
def predict(
    model: str,
    images: Sequence[Path],
    out: Path,
    formats: Sequence[str],
    overlay: bool,
    overwrite: bool,
) -> None:
    """Segment JPEG, PNG and DICOM files with a finished segmenter, at their own resolution.

    MODEL is the folder of a finished segmenter (workspace/segmenter/<fingerprint>) or of one of
    its checkpoints, of findings, organs or any other classes. Folders of images are searched
    through; hidden files and files that are no image are skipped. An image is called by its path
    below the folder given, with "_" for "/" and without .jpg, .png or .dcm.

    \b
    OUT gets
      predictions.csv    a row an image and class: threshold, pixels, share of the
                         image, greatest probability and where it is
      masks/ID/Class_Name.png
                         png: 0 or 255, a file for each class, empty or not
      predictions.json   chexlocalize: as CheXlocalize's public scripts read it, if its
                         ten findings are among the classes
      coco.json          coco: run lengths with a score, for pycocotools
      dicom-seg/ID.dcm   dicom-seg: for DICOM images in which something was found;
                         it carries the patient's data, the other files do not;
                         not for classes without a coded term
      overlays/ID.png    with --overlay
      failed.csv         images that could not be read or written, and why
      about.json         which segmenter made them

    The exit code is 1 if any image failed; the others are predicted all the same.
    """
    from chexseg_platform.prediction import exports, output
    from chexseg_platform.prediction.inputs import find_inputs

    asked = exports.parse_formats(formats)
    output.check_free(out, overwrite=overwrite)
    inputs = find_inputs(images, without=out)
    exports.check_formats(asked, inputs)
    from chexseg_platform.prediction.model import read_model

    loaded = read_model(model)
    wanted = exports.choose_formats(asked, loaded.classes)
    if inputs.skipped:
        files = "1 file" if inputs.skipped == 1 else f"{inputs.skipped:,} files"
        click.echo(f"{files} skipped: hidden, or no image")
    from chexseg_platform.prediction import run
    from chexseg_platform.progress import Progress

    try:
        with Progress("predict", len(inputs.images), "images") as progress:
            outcome = run.predict(
                loaded,
                inputs.images,
                out,
                wanted,
                overlay=overlay,
                overwrite=overwrite,
                progress=lambda done: progress.update(done=done),
            )
    except KeyboardInterrupt:
        click.echo(f"\nStopped: what {out} holds is not complete. Begin again.", err=True)
        sys.exit(130)
    _tell(outcome, loaded.classes, out)


def _tell(outcome: Outcome, classes: Sequence[str], out: Path) -> None:
    """Say what was found, what was left out, and, as an error, what failed."""
    found = [f"{name} in {outcome.found[name]:,}" for name in classes if outcome.found[name]]
    if outcome.empty:
        found.append(f"nothing in {outcome.empty:,}")
    if found:
        click.echo(f"Of {outcome.predicted:,} images: {', '.join(found)}")
    for (name, why), count in sorted(outcome.left_out.items()):
        click.echo(f"{name}: {count:,} left out ({why})")
    click.echo(f"Predictions: {out}")
    if outcome.failed:
        unwritten = len(outcome.failed) - outcome.unread
        said = [f"{outcome.unread:,} could not be read"] if outcome.unread else []
        said += [f"{unwritten:,} not be written in a format"] if unwritten else []
        raise click.ClickException(
            f"Of the images, {' and '.join(said)}; {out / 'failed.csv'} says which and why."
        )
