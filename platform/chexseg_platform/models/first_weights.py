"""Where a training's first weights lie: a folder on any filesystem, with a model in it.

The folder is one that `checkpoints.save` wrote, or a finished artifact, whose best checkpoint is
meant. Nothing heavy is imported, for a plan needs no more than the weights' digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chexseg_platform.artifacts import Part, read_part
from chexseg_platform.storage import Storage

WEIGHTS = "weights.safetensors"
META = "model.json"
BEST = "checkpoints/00"


class NoWeights(ValueError):
    """A folder that should hold a model and does not."""


def files(folder: str) -> dict[str, bytes]:
    """Return the model's two files, name -> bytes, as `checkpoints.loads` wants them.

    Raises:
        NoWeights: where one is not there.
        CorruptArtifact: where an artifact's part is damaged.
    """
    return {name: _read(folder, name) for name in (META, WEIGHTS)}


def describe(folder: str) -> dict[str, Any]:
    """Return what `model.json` says: "weights_sha256", "meta" and more.

    Raises:
        NoWeights: where it is not there, or says no such thing.
    """
    try:
        body = json.loads(_read(folder, META))
        body["weights_sha256"], body["meta"]["kind"]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, NoWeights):
            raise
        raise NoWeights(f"{META} of {folder} describes no model; copy the folder afresh") from None
    return dict(body)


def digest(folder: str) -> str:
    """Return the sha256 of the weights, as the model says it; `checkpoints.loads` checks it."""
    return str(describe(folder)["weights_sha256"])


def _read(folder: str, name: str) -> bytes:
    storage = Storage(folder)
    manifest = _manifest(storage)
    try:
        if manifest is None:
            return storage.read(name)
        return read_part(storage, _part(manifest, name))
    except FileNotFoundError:
        raise NoWeights(f"{folder} is no folder of a model: it has no {name}") from None


def _manifest(storage: Storage) -> Mapping[str, Any] | None:
    try:
        found = json.loads(storage.read("artifact.json"))
    except FileNotFoundError:
        return None
    return dict(found)


def _part(manifest: Mapping[str, Any], name: str) -> Part:
    for row in manifest["parts"]:
        if row["name"] == f"{BEST}/{name}":
            return Part(**row)
    raise FileNotFoundError(name)
