"""Where a segmenter's first weights come from, and what is refused."""

from pathlib import Path

import pytest
import torch
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Segmenter
from chexseg_platform.models import checkpoints
from chexseg_platform.models.first_weights import NoWeights
from chexseg_platform.stages.orders import load_start, start_of

STATE = {"a": torch.ones(2)}


@pytest.fixture
def classifier(tmp_path: Path):
    return artifact(tmp_path, "classifier")


def artifact(folder: Path, kind: str):
    files = checkpoints.dumps(STATE, {"kind": kind})
    draft = Workspace(folder / "w").draft(kind, "0" * 16)
    parts = [draft.write(f"checkpoints/00/{name}", data) for name, data in files.items()]
    return draft.finish(parts, config={}, inputs={})


def test_every_start_is_found(tmp_path: Path, classifier) -> None:
    made = {"doll": artifact(tmp_path, "segmenter")}

    def loaded(init: str):
        return load_start(start_of(Segmenter(init=init), classifier, tmp_path, made))

    checkpoints.save(tmp_path / "s", STATE, {"kind": "segmenter"})
    assert loaded("random") is None
    assert loaded("imagenet") == ("encoder", tmp_path / "resnet18", "", ())
    assert loaded("classifier")[0] == "classifier"
    assert loaded("pretrained:doll")[0] == "segmenter"
    assert loaded("encoder:doll")[0] == "encoder of segmenter"
    made["doll"] = classifier
    with pytest.raises(checkpoints.WrongArchitecture, match="a classifier, where a segmenter"):
        loaded("encoder:doll")
    for place in (tmp_path / "s", f"file://{tmp_path / 's'}"):
        kind, state, holds, _ = loaded(f"segmenter:{place}")
        assert (kind, holds) == ("segmenter", "")
        assert torch.equal(state["a"], STATE["a"])
    with pytest.raises(checkpoints.WrongArchitecture, match="a classifier, where a segmenter"):
        loaded(f"segmenter:{classifier.uri}")
    with pytest.raises(NoWeights, match="nowhere is no folder of a model"):
        loaded(f"segmenter:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="it is random, imagenet, classifier"):
        loaded("segmenter:")
