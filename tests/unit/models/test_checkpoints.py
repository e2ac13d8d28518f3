"""A model at rest: what is written comes back, and nothing else is taken for it."""

import json
from pathlib import Path

import pytest
import torch
from chexseg_platform.models.checkpoints import (
    META,
    WEIGHTS,
    CorruptCheckpoint,
    WrongArchitecture,
    dumps,
    first_mismatch,
    load,
    load_exactly,
    loads,
    require_kind,
    save,
    with_prefix,
)
from chexseg_platform.models.first_weights import NoWeights
from torch import nn

META_IN = {"kind": "classifier", "spec": {"encoder": "resnet18"}, "epoch": 3}


def state() -> dict[str, torch.Tensor]:
    return {
        "a": torch.arange(6.0).view(2, 3).t(),
        "n": torch.tensor(7),
        "h": torch.ones(2, dtype=torch.bfloat16),
    }


def test_round_trip_is_exact(tmp_path: Path) -> None:
    save(tmp_path / "new" / "model", state(), META_IN)
    found, meta = load(tmp_path / "new" / "model")
    assert meta == META_IN
    assert found.keys() == state().keys()
    for name, tensor in state().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert sorted(p.name for p in (tmp_path / "new" / "model").iterdir()) == [META, WEIGHTS]


def test_the_same_model_gives_the_same_bytes() -> None:
    assert dumps(state(), META_IN) == dumps(state(), META_IN)


def test_tied_tensors_are_kept() -> None:
    shared = torch.ones(3)
    found, _ = loads(dumps({"a": shared, "b": shared}, {}))
    assert torch.equal(found["b"], shared)


def test_every_flipped_byte_is_noticed() -> None:
    files = dumps({"a": torch.ones(4)}, {})
    for position in range(len(files[WEIGHTS])):
        broken = bytearray(files[WEIGHTS])
        broken[position] ^= 1
        with pytest.raises(CorruptCheckpoint, match="sha256"):
            loads({**files, WEIGHTS: bytes(broken)})


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(NoWeights, match=r"no folder of a model: it has no model\.json"):
        load(tmp_path)
    files = dumps(state(), META_IN)
    with pytest.raises(CorruptCheckpoint, match=WEIGHTS):
        loads({META: files[META]})
    with pytest.raises(CorruptCheckpoint, match="not a model description"):
        loads({**files, META: b"{]"})
    with pytest.raises(CorruptCheckpoint, match="not a model description"):
        loads({**files, META: b"[]"})
    newer = json.loads(files[META]) | {"format": 99}
    with pytest.raises(CorruptCheckpoint, match="format 99"):
        loads({**files, META: json.dumps(newer).encode()})


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pickle")
    import hashlib

    weights = (tmp_path / "pickle").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    body = {"format": 1, "weights_sha256": digest, "meta": {}}
    with pytest.raises(CorruptCheckpoint, match="safetensors"):
        loads({WEIGHTS: weights, META: json.dumps(body).encode()})


def test_diverged_weights_are_neither_written_nor_replace_good_ones(tmp_path: Path) -> None:
    save(tmp_path, state(), META_IN)
    bad = state() | {"a": torch.tensor([1.0, float("nan")])}
    with pytest.raises(ValueError, match="diverged"):
        save(tmp_path, bad, META_IN)
    assert load(tmp_path)[1] == META_IN


def test_kind() -> None:
    require_kind(META_IN, "classifier")
    with pytest.raises(WrongArchitecture, match="holds a classifier, where a segmenter"):
        require_kind(META_IN, "segmenter")


def test_first_mismatch_is_named() -> None:
    wanted = nn.Linear(3, 2).state_dict()
    assert first_mismatch(wanted, nn.Linear(3, 2).state_dict()) is None
    other = first_mismatch(wanted, nn.Linear(4, 2).state_dict())
    assert other is not None
    assert "'weight' has shape [2, 4] where [2, 3] is wanted" in other
    assert "no 'bias'" in str(first_mismatch(wanted, nn.Linear(3, 2, bias=False).state_dict()))
    assert "'bias' has no place" in str(
        first_mismatch(nn.Linear(3, 2, bias=False).state_dict(), wanted)
    )
    assert "float64" in str(first_mismatch(wanted, nn.Linear(3, 2).double().state_dict()))


def test_a_mismatch_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5)).state_dict()
    with pytest.raises(WrongArchitecture, match=r"The file does not fit this model: '1\.weight'"):
        load_exactly(model, other, "The file")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_prefix() -> None:
    found = with_prefix({"encoder.a": torch.ones(1), "head.a": torch.zeros(1)}, "encoder.")
    assert list(found) == ["a"]
