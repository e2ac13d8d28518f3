"""Folders that hold a segmenter, and all those that do not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from chexseg_platform.artifacts import CorruptArtifact, Workspace
from chexseg_platform.models.checkpoints import META, WEIGHTS, loads, save
from chexseg_platform.prediction.model import NoSegmenter, read_model


def changed(files: dict[str, bytes], folder: Path, **changes: object) -> str:
    """The segmenter with another meta, in a folder."""
    state, meta = loads(files)
    save(folder, state, {**meta, **changes})
    return str(folder)


def test_an_artifact_and_its_checkpoints_folder_are_the_same_model(
    segmenter: Path, segmenter_files: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in segmenter_files.items():
        (tmp_path / name).write_bytes(data)
    of_artifact, of_folder = read_model(str(segmenter)), read_model(str(tmp_path))
    assert of_artifact == of_folder
    assert (of_folder.size, of_folder.spec["architecture"]) == (32, "Unet")
    assert of_folder.thresholds["Pneumothorax"] == 0.999
    assert of_folder.digest == json.loads(segmenter_files[META])["weights_sha256"]


def test_a_classifier_is_refused(segmenter_files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(NoSegmenter, match="holds a classifier: masks need a segmenter"):
        read_model(changed(segmenter_files, tmp_path, kind="classifier"))


def test_an_unfinished_segmenter_is_refused(
    segmenter_files: dict[str, bytes], tmp_path: Path
) -> None:
    draft = Workspace(tmp_path).draft("segmenter", "0" * 16)
    for name, data in segmenter_files.items():
        draft.write(f"checkpoints/00/{name}", data)
    with pytest.raises(NoSegmenter, match=r"is not finished: it has no artifact\.json"):
        read_model(draft.storage.uri)


def test_what_is_no_model_is_refused(segmenter: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSegmenter, match=r"no folder .*gone: name a segmenter's"):
        read_model(str(tmp_path / "gone"))
    with pytest.raises(NoSegmenter, match=r"no folder of a model: it has no model\.json\.$"):
        read_model(str(tmp_path))
    with pytest.raises(NoSegmenter, match="is a file"):
        read_model(str(segmenter / "artifact.json"))
    dataset = Workspace(tmp_path).draft("dataset", "1" * 16)
    finished = dataset.finish([], config={}, inputs={})
    with pytest.raises(NoSegmenter, match="no folder of a model"):
        read_model(finished.uri)


def test_a_workspace_leads_to_its_segmenters(segmenter: Path) -> None:
    for folder in (segmenter.parent, segmenter.parent.parent):
        with pytest.raises(NoSegmenter, match=f"Name one artifact, such as {segmenter}"):
            read_model(str(folder))


def test_a_segmenter_that_lacks_something_is_refused(
    segmenter_files: dict[str, bytes], tmp_path: Path
) -> None:
    _, meta = loads(segmenter_files)
    sizeless = {"thresholds": meta["extra"]["thresholds"]}
    with pytest.raises(NoSegmenter, match="does not say the size"):
        read_model(changed(segmenter_files, tmp_path / "a", extra=sizeless))
    organs = {**meta["spec"], "classes": ["Edema", "Heart"]}
    with pytest.raises(NoSegmenter, match="has no threshold for Heart"):
        read_model(changed(segmenter_files, tmp_path / "b", spec=organs))
    with pytest.raises(NoSegmenter, match="has no threshold for Enlarged Cardiomediastinum"):
        read_model(changed(segmenter_files, tmp_path / "c", extra={"size": 32}))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([], "does not say what it segments"),
        (["Heart", "Edema", "Heart"], "has two classes of one name"),
        (["Edema", " "], "segments ' ', which cannot be written as a name: rename"),
        (["a\x1b[2J"], r"segments 'a\\x1b\[2J', which cannot be written"),
        (["a\nb"], r"segments 'a\\nb', which cannot be written"),
        (["a\udcff"], r"segments 'a\\udcff', which cannot be written"),
    ],
)
def test_classes_that_cannot_be_written_are_refused(
    segmenter_files: dict[str, bytes], tmp_path: Path, classes: list[str], said: str
) -> None:
    _, meta = loads(segmenter_files)
    extra = {"size": 32, "thresholds": dict.fromkeys(classes, 0.5)}
    spec = {**meta["spec"], "classes": classes}
    with pytest.raises(NoSegmenter, match=said):
        read_model(changed(segmenter_files, tmp_path, spec=spec, extra=extra))


def test_classes_come_from_the_model_in_its_order(make_model: Callable) -> None:
    found = make_model("Right Lung", "a/b", "Edema")
    assert found.classes == ("Right Lung", "a/b", "Edema")
    assert list(found.thresholds) == ["Right Lung", "a/b", "Edema"]


def test_a_damaged_artifact_is_refused(segmenter_files: dict[str, bytes], tmp_path: Path) -> None:
    draft = Workspace(tmp_path).draft("segmenter", "0" * 16)
    parts = [draft.write(f"checkpoints/00/{name}", data) for name, data in segmenter_files.items()]
    folder = Path(draft.finish(parts, config={}, inputs={}).uri)
    keys = {part.name.rpartition("/")[2]: part.key for part in parts}
    (folder / keys[WEIGHTS]).write_bytes(b"damaged")
    with pytest.raises(CorruptArtifact, match="damaged"):
        read_model(str(folder))
    (folder / keys[META]).write_bytes(b"damaged")
    with pytest.raises(NoSegmenter, match="copy the folder afresh"):
        read_model(str(folder))
