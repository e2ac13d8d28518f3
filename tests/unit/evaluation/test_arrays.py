"""Pickles that hold arrays are read, of every protocol; anything else in them is refused, unrun."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chexseg_platform.evaluation.arrays import UnsafePickle, load_arrays

ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(6, dtype=">i4").reshape(2, 3),
    np.zeros((0, 3)),
    np.float16([1.5]),
    np.arange(24.0).reshape(4, 6)[::2, 1:],
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_scalars_come_back(protocol: int) -> None:
    content = {"all": ARRAYS, "p": np.float64(0.25), "n": np.int64(3), "text": "a", "d": (3, 4)}
    found = load_arrays(pickle.dumps(content, protocol))
    for mine, theirs in zip(found["all"], ARRAYS, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.shape == theirs.shape
    assert (found["p"], found["n"], found["text"], found["d"]) == (0.25, 3, "a", (3, 4))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_tensors_come_back(protocol: int) -> None:
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {"map": whole[None, None], "part": whole[1:, ::2], "turned": whole.T}
    found = load_arrays(pickle.dumps(content, protocol))
    for name, tensor in content.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


class Calls:
    """Pickled, this is a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    for call in (Calls(os.mkdir, str(trap)), Calls(eval, "1"), Calls(getattr, 1, "real")):
        with pytest.raises(UnsafePickle, match="not loaded"):
            load_arrays(pickle.dumps({"map": call}))
    assert not trap.exists()


def test_nothing_is_run_within_a_tensor_either(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    stream = io.BytesIO()
    torch.save(Calls(os.mkdir, str(trap)), stream)
    inner = stream.getvalue()
    content = pickle.PROTO + b"\x04" + pickle.GLOBAL + b"torch.storage\n_load_from_bytes\n"
    content += pickle.BINBYTES + struct.pack("<I", len(inner)) + inner
    content += pickle.TUPLE1 + pickle.REDUCE + pickle.STOP
    with pytest.raises(pickle.UnpicklingError):
        load_arrays(content)
    assert not trap.exists()


def rebuilt(size: tuple, stride: tuple, offset: int = 0) -> bytes:
    """A tensor of four numbers that claims to be of this size."""
    from torch._utils import _rebuild_tensor_v2

    storage = torch.storage.TypedStorage(
        wrap_storage=torch.arange(4.0).untyped_storage(), dtype=torch.float32, _internal=True
    )
    call = Calls(_rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
    return pickle.dumps(call)


def test_a_tensor_must_lie_within_its_storage() -> None:
    np.testing.assert_array_equal(load_arrays(rebuilt((2, 2), (2, 1))), [[0, 1], [2, 3]])
    for claim in (((300, 300), (300, 1)), ((2, 2), (2, 1), 1), ((2,), (1,), 10**6), ((5,), (1,))):
        with pytest.raises(UnsafePickle, match="larger than its storage"):
            load_arrays(rebuilt(*claim))
    with pytest.raises(UnsafePickle, match="too large"):
        load_arrays(rebuilt((60_000, 60_000), (0, 0)))
    for claim in (((2,), (-1,), 3), ((2,), (1,), -1), ((2, 2), (1,))):
        with pytest.raises(UnsafePickle):
            load_arrays(rebuilt(*claim))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}], dtype=object),
        np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
        np.array(["text"]),
        np.zeros(2, dtype="V8"),
        np.array(["2026-01-01"], dtype="M8[D]"),
        np.zeros(2, dtype=np.complex64),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(array: np.ndarray) -> None:
    for protocol in (2, 5):
        with pytest.raises(UnsafePickle):
            load_arrays(pickle.dumps(array, protocol))


def test_a_dtype_cannot_be_given_fields_afterwards() -> None:
    class Forged:
        def __reduce__(self) -> Any:
            state = (3, "|", None, ("a",), {"a": (np.dtype("f8"), 0)}, 8, 1, 0)
            return np.dtype, ("f8", False, True), state

    with pytest.raises(UnsafePickle, match="plain numbers"):
        load_arrays(pickle.dumps(Forged()))


def test_an_array_of_another_size_than_its_bytes_is_refused() -> None:
    class Short:
        def __reduce__(self) -> Any:
            from numpy._core.multiarray import _reconstruct

            state = (1, (1000, 1000), np.dtype("f8"), False, b"12345678")
            return _reconstruct, (np.ndarray, (0,), b"b"), state

    with pytest.raises(UnsafePickle, match="another size"):
        load_arrays(pickle.dumps(Short()))
