"""Which images to predict: files and folders turned into a list with one id an image.

An id is what tables, masks and JSON files call an image: its path below the folder that was
given, without the suffix and with "_" for "/". An image that lies as CheXpert's do
(`patient64622/study1/view1_frontal.jpg`) is called as CheXlocalize calls it
(`patient64622_study1_view1_frontal`), whichever folder was given, so that predictions meet
CheXlocalize's masks. Nothing of an id comes from inside a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chexseg_platform.data.decode import UnreadableInput, sniff
from chexseg_platform.data.entries import parse_view_path

SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom")
"""In any case. Other suffixes are part of an id: names made of UIDs are full of dots."""

HEAD = 4096
LONGEST = 200
"""Bytes of an id: a file's name, with its suffix, may have 255."""


class BadInputs(ValueError):
    """Inputs that cannot be predicted as they are; nothing has been done yet."""


@dataclass(frozen=True)
class Input:
    """An image to predict.

    Attributes:
        image_id: its name in everything that is written.
        path: where it lies.
        name: its path below the folder that was given, with "/".
    """

    image_id: str
    path: Path
    name: str

    @property
    def is_dicom(self) -> bool:
        return kind_of(self.path) == "DICOM"


@dataclass(frozen=True)
class Inputs:
    """Images in order, and how many other files lay among them."""

    images: tuple[Input, ...]
    skipped: int


def find_inputs(paths: Sequence[Path], *, without: Path | None = None) -> Inputs:
    """List the images of files and folders, in the order given, folders sorted.

    A file that is named is always taken. In folders, hidden files and folders and files that are
    neither JPEG, PNG nor DICOM are skipped: what counts is an image's suffix or, without one,
    the content, for DICOM files often have none.

    Args:
        without: a folder that is left out: earlier masks must not be taken for X-rays.

    Raises:
        BadInputs: a path is not there, there are no images, or two have one id.
    """
    images, skipped = [], 0
    for path in paths:
        if path.is_dir():
            for file in _walk(path, without):
                if _hidden(file.relative_to(path)) or not looks_like_image(file):
                    skipped += 1
                else:
                    images.append(_input(file, file.relative_to(path).as_posix()))
        elif path.exists():
            images.append(_input(path, path.name))
        else:
            raise BadInputs(f"There is no file or folder {path}.")
    _check(images, paths)
    return Inputs(tuple(images), skipped)


def looks_like_image(path: Path) -> bool:
    """Tell images by their suffix, which damaged ones have too, else by their first bytes."""
    return path.suffix.lower() in SUFFIXES or kind_of(path) is not None


def kind_of(path: Path) -> str | None:
    """Return "JPEG", "PNG" or "DICOM", by content; None for anything else and what is not there."""
    if not path.is_file():  # to open a pipe would wait for ever
        return None
    try:
        with path.open("rb") as stream:
            return sniff(stream.read(HEAD))
    except (OSError, UnreadableInput):
        return None


def image_id_of(path: Path, name: str) -> str:
    """Return an image's id; see the module.

    Args:
        path: of the file.
        name: below the folder that was given.
    """
    view = parse_view_path("/".join(path.absolute().parts[-3:]))
    if view is not None:
        return view.image_id
    suffix = path.suffix if path.suffix.lower() in SUFFIXES else ""
    return name.removesuffix(suffix).replace("/", "_")


def _input(path: Path, name: str) -> Input:
    return Input(image_id_of(path, name), path, name)


def _walk(folder: Path, without: Path | None) -> Iterator[Path]:
    """Yield a folder's files, sorted, through links, but no folder twice."""
    seen: set[str] = {os.path.realpath(without)} if without is not None else set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_stop):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in sorted(files))


def _stop(error: OSError) -> None:
    raise error


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _check(images: Sequence[Input], paths: Sequence[Path]) -> None:
    if not images:
        where = ", ".join(map(str, paths))
        raise BadInputs(f"There are no images in {where}: JPEG, PNG and DICOM files are read.")
    first: dict[str, Input] = {}
    for image in images:
        other = first.setdefault(image.image_id, image)
        if other is not image:
            raise BadInputs(
                f"{other.path} and {image.path} would both be called {image.image_id!r}: name the "
                "folder above both, or predict them into two folders."
            )
        if image.image_id.strip(".") == "" or len(os.fsencode(image.image_id)) > LONGEST:
            raise BadInputs(
                f"{image.path} gives no usable image id ({image.image_id[:60]!r}): rename it, or "
                "name a folder nearer to it."
            )
