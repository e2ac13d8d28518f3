"""What pseudo-labels say of themselves, on tables made by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.artifacts import Artifact, Workspace
from chexseg_platform.data import masks
from chexseg_platform.data.store import SMALL_TYPE
from chexseg_platform.findings import FINDINGS
from chexseg_platform.stages.explained import Peaks, choose_cases, describe_peaks

SIZE = 48


def table(*rows: tuple[str, str, bool, int | None, int | None]) -> pa.Table:
    names = ("image_id", "finding", "allowed", "peak_row", "peak_column")
    types = (pa.string(), pa.string(), pa.bool_(), pa.int16(), pa.int16())
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return pa.table(
        {n: pa.array(list(c), t) for n, t, c in zip(names, types, columns, strict=True)}
    )


INDEX = pa.table({"image_id": ["whole", "wide"], "height": [48, 24], "width": [48, 48]})


def test_peaks_are_counted_by_finding_where_a_map_was_allowed() -> None:
    first = table(
        ("whole", "Edema", True, 0, 0),  # corner and border
        ("whole", "Edema", True, 24, 1),  # border
        ("whole", "Edema", False, 0, 0),
        ("whole", "Atelectasis", True, None, None),
    )
    second = table(
        ("whole", "Edema", True, 24, 24),
        ("wide", "Edema", True, 12, 0),  # the image's own corner
        ("wide", "Cardiomegaly", True, 14, 24),
    )
    peaks = Peaks(SIZE, FINDINGS)
    for part in (first, table(), second):
        peaks.add(part, INDEX)
    shares = peaks.shares()
    assert shares["Edema"] == {"maps": 4, "corner": 0.5, "border": 0.75}
    assert shares["Cardiomegaly"] == {"maps": 1, "corner": 0.0, "border": 0.0}
    assert shares["Atelectasis"] == {"maps": 0, "corner": None, "border": None}
    assert shares["all"] == {"maps": 5, "corner": 0.4, "border": 0.6}
    assert set(shares) == {"all", *FINDINGS}
    said = describe_peaks({"peaks": shares})
    assert said.startswith("saliency peaks: 40% in a corner of the image, 60% at its border")


def test_without_a_map_nothing_is_said() -> None:
    assert describe_peaks({"peaks": Peaks(SIZE, FINDINGS).shares()}) == ""
    assert describe_peaks({}) == ""


MASK = masks.encode(np.eye(4, dtype=bool))


def artifact(workspace: Workspace, kind: str, parts: dict[str, pa.Table]) -> Artifact:
    draft = workspace.draft(kind, "0" * 16)
    return draft.finish([draft.write(n, t) for n, t in parts.items()], config={}, inputs={})


@pytest.fixture
def made(tmp_path: Path) -> tuple[Artifact, Artifact]:
    """Pseudo-labels of three images; experts drew Edema on "b" and "c"."""
    drawn = [None, [{"finding": "Edema", "counts": MASK}], [{"finding": "Edema", "counts": MASK}]]
    index = pa.table({"image_id": ["a", "b", "c"], "small_masks": pa.array(drawn, SMALL_TYPE)})
    rows = [
        ("a", "valid", "Cardiomegaly", MASK),
        ("b", "valid", "Atelectasis", MASK),
        ("b", "valid", "Edema", MASK),
        ("c", "valid", "Edema", MASK),
        ("c", "valid", "Cardiomegaly", None),
        ("c", "train", "Lung Opacity", MASK),
    ]
    names = ("image_id", "split", "finding", "counts")
    pseudo = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    workspace = Workspace(tmp_path)
    dataset = artifact(workspace, "dataset", {"index/00000.parquet": index})
    return artifact(workspace, "pseudolabels", {"masks/00000.parquet": pseudo}), dataset


def test_what_experts_drew_comes_first_and_no_finding_takes_all(
    made: tuple[Artifact, Artifact],
) -> None:
    found = [(item.image_id, item.finding) for item in choose_cases(*made, 8)]
    drawn = [("b", "Edema"), ("c", "Edema")]
    assert found == [*drawn, ("a", "Cardiomegaly"), ("b", "Atelectasis")]
    assert len(choose_cases(*made, 2)) == 2
    assert {item.part for item in choose_cases(*made, 8)} == {"rows/00000.parquet"}
