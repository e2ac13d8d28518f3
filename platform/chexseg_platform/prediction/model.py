"""The segmenter to predict with: a folder, checked before any image is read."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow.fs import FileType

from chexseg_platform.models import first_weights
from chexseg_platform.storage import Storage


class NoSegmenter(ValueError):
    """A folder that holds no segmenter to predict with."""


@dataclass(frozen=True)
class Model:
    """A segmenter at rest.

    Attributes:
        files: its two files, name -> bytes.
        digest: sha256 of its weights.
        size: side of its frames, pixels.
        thresholds: class -> least probability of a mask's pixels; in the classes' order.
        spec: architecture, encoder and more; see `models.segmenter.SegmenterSpec`.
    """

    files: Mapping[str, bytes]
    digest: str
    size: int
    thresholds: Mapping[str, float]
    spec: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """What it segments, in the order of its channels."""
        return tuple(self.spec["classes"])


def read_model(folder: str) -> Model:
    """Read a finished segmenter artifact, or a folder with the two files of one checkpoint.

    Raises:
        NoSegmenter: there is no such folder, it is unfinished, or holds something else.
        CorruptArtifact: a file of the artifact is damaged.
    """
    _check_folder(folder)
    try:
        body = first_weights.describe(folder)
        _check_meta(folder, body["meta"])
        files = first_weights.files(folder)
    except first_weights.NoWeights as error:
        raise NoSegmenter(f"{error}.{_others(folder)}") from None
    extra, spec = body["meta"]["extra"], body["meta"]["spec"]
    thresholds = {name: float(extra["thresholds"][name]) for name in spec["classes"]}
    size = int(extra["size"])
    return Model(files, body["weights_sha256"], size, thresholds, spec)


def _check_folder(folder: str) -> None:
    storage = Storage(folder)
    kind = storage.fs.get_file_info(storage.base).type
    if kind == FileType.NotFound:
        raise NoSegmenter(
            f"There is no folder {folder}: name a segmenter's, such as "
            "workspace/segmenter/<fingerprint>."
        )
    if kind == FileType.File:
        raise NoSegmenter(f"{folder} is a file: name the folder that it lies in.")
    if storage.exists("receipts") and not storage.exists("artifact.json"):
        raise NoSegmenter(
            f"{folder} is not finished: it has no artifact.json. Run its experiment again, which "
            "goes on where it was cut off."
        )


def _check_meta(folder: str, meta: Mapping[str, Any]) -> None:
    if meta["kind"] != "segmenter":
        raise NoSegmenter(f"{folder} holds a {meta['kind']}: masks need a segmenter; name one.")
    extra, classes = meta.get("extra", {}), meta.get("spec", {}).get("classes", ())
    _check_classes(folder, classes)
    for name in classes:
        if name not in extra.get("thresholds", {}):
            raise NoSegmenter(
                f"{folder} has no threshold for {name}, so its maps cannot be cut: train it again."
            )
    if "size" not in extra:
        raise NoSegmenter(
            f"{folder} does not say the size of its images (`extra.size` of "
            f"{first_weights.META}), so images cannot be brought to it: train it again."
        )


def _check_classes(folder: str, classes: Sequence[str]) -> None:
    """Refuse names that no table, picture or terminal can show, and those that are there twice."""
    if not classes:
        raise NoSegmenter(f"{folder} does not say what it segments: name another segmenter.")
    for name in classes:
        # Cc: control characters; Cs: bytes that were no text.
        if not name.strip() or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
            raise NoSegmenter(
                f"{folder} segments {name!r}, which cannot be written as a name: rename that "
                "structure's folder and train again."
            )
    if len(set(classes)) < len(classes):
        raise NoSegmenter(f"{folder} has two classes of one name: name another segmenter.")


def _others(folder: str) -> str:
    """Name a segmenter below a workspace, or below its folder of segmenters."""
    below = [*Path(folder).glob("segmenter/*/artifact.json"), *Path(folder).glob("*/artifact.json")]
    return f" Name one artifact, such as {min(below).parent}." if below else ""
