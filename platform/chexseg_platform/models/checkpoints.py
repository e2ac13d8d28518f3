"""A model at rest: `weights.safetensors` beside `model.json`, and nothing to unpickle.

safetensors carry no checksum, so the JSON holds the weights' sha256, and everything else that is
needed to build the model again. The functions work on bytes (`dumps`, `loads`), because artifacts
go through any pyarrow filesystem, and on folders (`save`, `load`).

What a file says is checked before a model sees it: checksum, finite values, and, against the
model that is built from its meta, names, shapes and dtypes of every tensor.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from chexseg_platform.models import first_weights
from chexseg_platform.models.first_weights import META, WEIGHTS

FORMAT = 1

State = Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


class CorruptCheckpoint(ValueError):
    """A checkpoint that is incomplete, changed since it was written, or not finite."""


class WrongArchitecture(ValueError):
    """A checkpoint of another model than the one it is to be loaded into."""


def dumps(state: State, meta: Mapping[str, Any]) -> dict[str, bytes]:
    """Serialise a model to its two files, name -> bytes.

    Args:
        state: a `state_dict`, on any device.
        meta: JSON-ready; what `loads` returns again.

    Raises:
        ValueError: where a weight is not finite (a diverged training must not be kept) or the
            meta is not JSON.
    """
    bad = _first_not_finite(state)
    if bad is not None:
        raise ValueError(
            f"The weights hold NaN or infinity (first in {bad!r}), so training diverged: lower "
            "the learning rate, or continue from an earlier checkpoint."
        )
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    weights = save_tensors(plain)
    body = {"format": FORMAT, "weights_sha256": _sha256(weights), "meta": dict(meta)}
    text = json.dumps(body, indent=2, sort_keys=True, allow_nan=False)
    return {WEIGHTS: weights, META: text.encode() + b"\n"}


def loads(files: Mapping[str, bytes]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of `dumps`: state on the CPU, and meta.

    Raises:
        CorruptCheckpoint: where a file is missing, unreadable or not what was written.
    """
    missing = [name for name in (META, WEIGHTS) if name not in files]
    if missing:
        raise CorruptCheckpoint(f"A model folder needs {META} and {WEIGHTS}; {missing[0]} is gone.")
    digest, meta = _read_meta(files[META])
    if _sha256(files[WEIGHTS]) != digest:
        raise CorruptCheckpoint(
            f"{WEIGHTS} is not what was written (its sha256 differs from {META}): delete this "
            "model and run its stage again, or copy it afresh."
        )
    try:
        state = load_tensors(files[WEIGHTS])
    except SafetensorError as error:
        raise CorruptCheckpoint(f"{WEIGHTS} cannot be read as safetensors: {error}.") from error
    bad = _first_not_finite(state)
    if bad is not None:
        raise CorruptCheckpoint(f"{WEIGHTS} holds NaN or infinity in {bad!r}; train it again.")
    return state, meta


def save(folder: Path, state: State, meta: Mapping[str, Any]) -> None:
    """Write both files into a local folder (made if absent), each atomically, the JSON last.

    A crash between the two leaves a pair whose checksums disagree, which `load` refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in dumps(state, meta).items():
        _replace(folder / name, content)


def load(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote, or the best checkpoint of an artifact, on any filesystem.

    Raises:
        NoWeights: where there is no model.
        CorruptCheckpoint: as in `loads`, with the folder named.
    """
    try:
        return loads(first_weights.files(str(folder)))
    except CorruptCheckpoint as error:
        raise CorruptCheckpoint(f"{folder}: {error}") from error


def describe(
    kind: str,
    spec: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The meta of a checkpoint: everything needed to build and feed its model again, JSON-ready.

    `extra` is what else is kept of it (thresholds, epoch, ...).
    """
    return {
        "kind": kind,
        "spec": dict(spec),
        "preprocess": dict(preprocess),
        "extra": dict(extra or {}),
    }


def rebuild(
    files: Mapping[str, bytes], kind: str, build: Callable[[Mapping[str, Any]], Model]
) -> tuple[Model, dict[str, Any]]:
    """The model of a checkpoint, in eval mode on the CPU, and its meta.

    Args:
        files: as from `dumps`, with a meta as from `describe`.
        kind: what it must hold.
        build: makes the model from the spec.

    Raises:
        CorruptCheckpoint, WrongArchitecture.
    """
    state, meta = loads(files)
    require_kind(meta, kind)
    model = build(meta.get("spec", {}))
    load_exactly(model, state, f"The {kind} checkpoint")
    return model.eval(), meta


def require_kind(meta: Mapping[str, Any], kind: str) -> None:
    """WrongArchitecture unless the checkpoint holds a model of this kind ("classifier", ...)."""
    found = meta.get("kind")
    if found != kind:
        raise WrongArchitecture(
            f"This checkpoint holds a {found or 'model of no stated kind'}, where a {kind} is "
            f"needed: name a {kind} checkpoint."
        )


def load_exactly(model: nn.Module, state: State, what: str) -> None:
    """Load a state into a model of exactly its names, shapes and dtypes.

    Args:
        model: changed in place, only where everything fits.
        state: untouched (some libraries' `load_state_dict` rename keys in the caller's dict).
        what: the checkpoint in words, for the error.

    Raises:
        WrongArchitecture: naming the first tensor that does not fit and what would.
    """
    reason = first_mismatch(model.state_dict(), state)
    if reason is not None:
        raise WrongArchitecture(f"{what} does not fit this model: {reason}")
    # Past overrides on purpose: several encoders' own take no `strict` and drop or rename keys.
    nn.Module.load_state_dict(model, dict(state), strict=True)


def first_mismatch(wanted: State, given: State) -> str | None:
    """Say in one sentence where two states first differ in name, shape or dtype, else None."""
    for name, tensor in wanted.items():
        if name not in given:
            return (
                f"it has no {name!r} (shape {list(tensor.shape)} is wanted), so it comes from "
                "another encoder or architecture; set those to the checkpoint's own."
            )
        other = given[name]
        if other.shape != tensor.shape:
            return (
                f"{name!r} has shape {list(other.shape)} where {list(tensor.shape)} is wanted; "
                "encoder, input channels and classes must be the checkpoint's own."
            )
        if other.dtype != tensor.dtype:
            return f"{name!r} is {other.dtype} where {tensor.dtype} is wanted; convert it first."
    extra = next((name for name in given if name not in wanted), None)
    if extra is not None:
        return (
            f"its {extra!r} has no place here, so it comes from another encoder or architecture; "
            "set those to the checkpoint's own."
        )
    return None


def with_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix such as "encoder.", with the prefix taken off."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _read_meta(content: bytes) -> tuple[str, dict[str, Any]]:
    try:
        body = json.loads(content)
        version, digest, meta = body["format"], body["weights_sha256"], body["meta"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{META} is not a model description: {error}.") from error
    if version != FORMAT:
        raise CorruptCheckpoint(
            f"{META} has format {version}, this version reads {FORMAT}: use the version of "
            "chexseg-platform that wrote it."
        )
    if not isinstance(digest, str) or not isinstance(meta, dict):
        raise CorruptCheckpoint(f"{META} is not a model description: a field has another type.")
    return digest, meta


def _first_not_finite(state: State) -> str | None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
