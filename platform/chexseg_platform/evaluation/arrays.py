"""Arrays out of pickles, without running anything of them.

A pickle is a program: it names functions and says what to call them with. Here every name that
arrays, tensors and their parts are pickled by is answered with a small constructor of our own,
which checks what it is given; any other name ends the reading. NumPy's and torch's constructors
are not used: handed forged pieces, they read memory that is not theirs.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chexseg_platform.data.masks import MAX_PIXELS

KINDS = {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"}
LARGEST = 4 * MAX_PIXELS
"""Values of an array, at most: a few bytes of a pickle must not ask for gigabytes."""


class UnsafePickle(ValueError):
    """A pickle that names what no array needs, or whose pieces do not fit together."""


def load_arrays(content: bytes) -> Any:
    """Load a pickle of plain values, NumPy arrays and torch tensors; tensors become arrays.

    Raises:
        UnsafePickle: see there. Also whatever a broken pickle ends in.
    """
    return _settled(_ArraysOnly(io.BytesIO(content)).load())


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return NAMES[module, name]
        except KeyError:
            raise UnsafePickle(
                f"its pickle asks for {module}.{name}, which no array needs; it is not loaded"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickle("its pickle refers to something outside itself; it is not loaded")


class _Dtype:
    """Stands for numpy.dtype: a kind of plain numbers and their byte order."""

    def __init__(self, kind: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(kind, str) or kind not in KINDS:
            raise UnsafePickle("its array is not of plain numbers")
        self.kind, self.order = kind, "="

    def __setstate__(self, state: Any) -> None:
        plain = isinstance(state, tuple) and len(state) >= 5 and state[2:5] == (None, None, None)
        if not plain or state[1] not in ("<", ">", "|", "="):
            raise UnsafePickle("its array is not of plain numbers")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.kind)


class _Array:
    """Stands for numpy.ndarray, put together from a state."""

    def __init__(self) -> None:
        self.array: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnsafePickle("its array has no state")
        _, shape, dtype, fortran, content = state
        self.array = _filled(content, dtype, shape, "F" if fortran else "C")


def _filled(content: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if isinstance(content, str):  # protocol 2 and below
        content = content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
        raise UnsafePickle("its array is not of plain numbers")
    size = _size(shape)
    if size * dtype.dtype.itemsize != len(content) or order not in ("C", "F"):
        raise UnsafePickle("its array has another size than its bytes")
    return np.frombuffer(content, dtype.dtype).reshape(shape, order=order)


def _size(shape: Any) -> int:
    if not isinstance(shape, (tuple, list)) or not all(type(n) is int and n >= 0 for n in shape):
        raise UnsafePickle("its array has no shape")
    if (size := prod(shape)) > LARGEST:
        raise UnsafePickle(f"its array of {size:,} values is too large")
    return size


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.array = _filled(content, dtype, shape, order)
    return made


def _scalar(dtype: Any, content: Any = b"") -> Any:
    return _filled(content, dtype, (), "C").item()


def _storage(content: Any) -> torch.Tensor:
    if not isinstance(content, bytes):
        raise UnsafePickle("its tensor has no storage")
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(loaded, torch.storage.TypedStorage):
        raise UnsafePickle("its tensor has no storage")
    with warnings.catch_warnings():
        # torch warns whoever uses the storages that its own pickles are made of.
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        return torch.tensor([], dtype=loaded.dtype).set_(loaded.untyped())


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> NDArray[Any]:
    """A tensor as an array, if all of it lies within its storage."""
    count = _size(size)
    whole = type(offset) is int and offset >= 0 and _size(stride) >= 0 and len(stride) == len(size)
    if not isinstance(storage, torch.Tensor) or not whole:
        raise UnsafePickle("its tensor has no storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and last >= len(storage):
        raise UnsafePickle("its tensor is larger than its storage")
    return storage.as_strided(tuple(size), tuple(stride), offset).clone().numpy()


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    """How protocols 0 to 2 write bytes."""
    if not isinstance(text, str) or codec != "latin1":
        raise UnsafePickle("its bytes are not written as a pickle writes them")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write no bytes at all."""
    return b""


def _shape(sides: Sequence[int] = ()) -> tuple[int, ...]:
    return tuple(sides)


NAMES: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("torch", "Size"): _shape,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
} | {
    (f"numpy.{core}.{module}", name): made
    for core in ("core", "_core")
    for module, name, made in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}
"""Names that a pickle may use, and what answers to them."""


def _settled(value: Any) -> Any:
    """Put finished arrays in the place of what stood for them, in lists, tuples, dictionaries."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {key: _settled(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_settled(entry) for entry in value)
    return value
