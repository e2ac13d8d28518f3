"""Images in, files out: decoded, segmented and written batch by batch, in bounded memory.

An image that cannot be read, or not be written in one of the formats, is listed with its reason,
and the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chexseg_platform.artifacts import code_revision
from chexseg_platform.data.decode import UnreadableInput, read_grey
from chexseg_platform.evaluation.segmenting import Frame, Segmented, Segmenting, frame_of
from chexseg_platform.prediction import output
from chexseg_platform.prediction.exports import PNG, open_exports
from chexseg_platform.prediction.filenames import renamed
from chexseg_platform.prediction.inputs import Input
from chexseg_platform.prediction.model import Model
from chexseg_platform.prediction.predicted import Add, Failure, NotExported, Predicted
from chexseg_platform.prediction.tables import write_failures

READING = "reading"


@dataclass
class Outcome:
    """What became of the images.

    Attributes:
        predicted: images with masks, the empty ones too.
        empty: of those, images in which nothing was found.
        found: class -> images in which it was found.
        left_out: (format, why) -> images that were not written in it, which is no failure.
        failed: images that could not be read, and those that could not be written in a format.
    """

    predicted: int = 0
    empty: int = 0
    found: Counter[str] = field(default_factory=Counter)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: list[Failure] = field(default_factory=list)

    @property
    def unread(self) -> int:
        """Images that could not be read, so that they have no prediction."""
        return sum(failure.what == READING for failure in self.failed)

    def count(self, masks: Mapping[str, str]) -> None:
        """Count an image by what was found in it."""
        self.predicted += 1
        self.empty += not masks
        self.found.update(masks.keys())


def predict(
    model: Model,
    images: Sequence[Input],
    out: Path,
    formats: Sequence[str],
    *,
    overlay: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Predict images into a folder.

    Args:
        out: see `output.prepare`.
        formats: see `exports.choose_formats`.
        overlay: draw a picture an image too.
        progress: told how many images are through.

    Raises:
        OccupiedOutput: before any work.
    """
    output.check_free(out, overwrite=overwrite)
    segmenting, outcome = Segmenting(model.files, model.size), Outcome()
    output.prepare(out, overwrite=overwrite)
    about = describe(model, formats, len(images))
    output.say_about(out, about, finished=False)
    with ExitStack() as stack:
        exports = open_exports(stack, out, formats, overlay, model)
        for done, found in enumerate(_segmented(segmenting, images, outcome), start=1):
            if found is not None:
                outcome.count(found.masks)
                _export(found, exports, outcome)
            progress(done)
    if outcome.failed:
        write_failures(out / output.FAILED, outcome.failed)
    unwritten = len(outcome.failed) - outcome.unread
    counts = {"predicted": outcome.predicted, "unread": outcome.unread, "unwritten": unwritten}
    output.say_about(out, {**about, **counts}, finished=True)
    return outcome


def describe(model: Model, formats: Sequence[str], images: int) -> dict[str, Any]:
    """Return what `about.json` says before anything is predicted.

    `mask_files` says which file is whose, where its name does not.
    """
    files = renamed(model.classes) if PNG in formats else {}
    return {
        "code": code_revision(),
        "weights_sha256": model.digest,
        "architecture": model.spec["architecture"],
        "encoder": model.spec["encoder"],
        "size": model.size,
        "thresholds": dict(model.thresholds),
        "formats": list(formats),
        "images": images,
        **({"mask_files": files} if files else {}),
    }


def _segmented(
    segmenting: Segmenting, images: Sequence[Input], outcome: Outcome
) -> Iterator[Predicted | None]:
    """Yield every image with its masks, in order; None where it cannot be read."""
    for start in range(0, len(images), segmenting.batch):
        some = images[start : start + segmenting.batch]
        frames = [_read(image, segmenting.size, outcome) for image in some]
        found = segmenting.segment([frame for frame in frames if frame is not None])
        for image, frame in zip(some, frames, strict=True):
            yield None if frame is None else _predicted(image, frame, next(found))


def _read(image: Input, size: int, outcome: Outcome) -> Frame | None:
    try:
        return frame_of(read_grey(image.path), size)
    except UnreadableInput as error:
        outcome.failed.append(Failure(image, READING, str(error)))
        return None


def _predicted(image: Input, frame: Frame, found: Segmented) -> Predicted:
    return Predicted(
        source=image,
        height=frame.height,
        width=frame.width,
        masks=found.masks,
        peaks=found.peaks,
        highest=found.highest,
    )


def _export(image: Predicted, exports: Mapping[str, Add], outcome: Outcome) -> None:
    for name, add in exports.items():
        try:
            why = add(image)
        except NotExported as error:
            outcome.failed.append(Failure(image.source, name, str(error)))
        else:
            if why is not None:
                outcome.left_out[name, why] += 1
