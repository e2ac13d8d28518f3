"""First weights in a folder or an artifact, on a local disk or another filesystem."""

from pathlib import Path

import pytest
import torch
from chexseg_platform.artifacts import CorruptArtifact, Workspace
from chexseg_platform.models import checkpoints, first_weights
from chexseg_platform.models.first_weights import NoWeights

STATE = {"a": torch.arange(6.0).reshape(2, 3)}
META = {"kind": "segmenter"}


@pytest.fixture
def plain(tmp_path: Path) -> str:
    checkpoints.save(tmp_path / "plain", STATE, META)
    return str(tmp_path / "plain")


@pytest.fixture
def artifact(tmp_path: Path) -> str:
    draft = Workspace(tmp_path / "w").draft("segmenter", "0" * 16)
    files = checkpoints.dumps(STATE, META)
    parts = [draft.write(f"checkpoints/00/{name}", data) for name, data in files.items()]
    return draft.finish(parts, config={}, inputs={}).uri


def test_a_folder_and_an_artifact_of_the_same_weights_are_the_same(
    plain: str, artifact: str
) -> None:
    assert first_weights.digest(plain) == first_weights.digest(artifact)
    for folder in (plain, artifact, f"file://{plain}", f"file://{artifact}"):
        state, meta = checkpoints.load(folder)
        assert torch.equal(state["a"], STATE["a"])
        assert meta == META


def test_what_is_no_model_is_said(tmp_path: Path, artifact: str) -> None:
    with pytest.raises(NoWeights, match=r"it has no model\.json"):
        first_weights.digest(str(tmp_path / "nowhere"))
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(NoWeights, match="describes no model"):
        first_weights.digest(str(tmp_path))
    empty = Workspace(tmp_path / "w").draft("dataset", "1" * 16).finish([], config={}, inputs={})
    with pytest.raises(NoWeights, match="no folder of a model"):
        first_weights.files(empty.uri)
    (weights,) = Path(artifact).glob("parts/checkpoints/00/weights.*")
    weights.write_bytes(b"x")
    with pytest.raises(CorruptArtifact, match="damaged"):
        first_weights.files(artifact)
