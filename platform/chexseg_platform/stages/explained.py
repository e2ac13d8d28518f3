"""What finished pseudo-labels say of themselves: counts, AUROC, health of maps, cases to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chexseg_platform.artifacts import Artifact
from chexseg_platform.data.store import content_rectangle, label_array
from chexseg_platform.evaluation.localization import lines, locate
from chexseg_platform.findings import OBSERVATIONS
from chexseg_platform.saliency.health import at_border, in_corner
from chexseg_platform.training.metrics import study_auroc


def summarise(
    outputs: Artifact,
    dataset: Artifact,
    names: Sequence[str],
    thresholds: Sequence[float] | None,
    tuned_on: Sequence[str] = (),
) -> dict[str, Any]:
    """Counts by status, masks a class, where maps peak, and the AUROC on each split.

    Where there are thresholds, the patients that they were tuned on are left out of what compares
    masks with the experts'.

    Mask rows are summed part by part, for there are ten an image: only those of validation images,
    and the images' probabilities, are ever in memory together.
    """
    columns = [
        "image_id", "split", "finding", "status", "allowed", "counts", "peak_row", "peak_column",
    ]  # fmt: skip
    size, status, made = int(dataset.summary["size"]), Counter[str](), Counter[str]()
    peaks = Peaks(size, names)
    valid, read, known = list[pa.Table](), list[pa.Table](), list[pa.Table]()
    for part in dataset.parts("index/"):
        index = dataset.table(part.name)
        table = outputs.table(f"masks/{part.name.rpartition('/')[2]}", columns)
        status.update(table["status"].to_pylist())
        made.update(table.filter(pc.equal(table["status"], "mask"))["finding"].to_pylist())
        peaks.add(table, index)
        valid.append(table.filter(pc.equal(table["split"], "valid")))
        shown = pc.and_(pc.equal(index["split"], "valid"), pc.is_valid(index["masks"]))
        if thresholds is not None:
            seen = pc.is_in(index["patient"], pa.array(tuned_on, pa.string()))
            shown = pc.and_(shown, pc.invert(seen))
        read.append(index.filter(shown))
        known.append(index.select(["image_id", "patient", "study", "labels"]))
    images = outputs.tables("images/")
    return {
        "images": images.num_rows,
        "masks": {name: made[name] for name in names},
        "status": dict(sorted(status.items())),
        "peaks": peaks.shares(),
        "localization": localization(pa.concat_tables(valid), pa.concat_tables(read), size),
        "thresholds": None
        if thresholds is None
        else {n: None if t != t else t for n, t in zip(names, thresholds, strict=True)},
        "auroc": _aurocs(images, pa.concat_tables(known)),
    }


class Peaks:
    """How many allowed maps peak in a corner or at the border of their image, summed over parts.

    Args:
        size: side of the frame.
        names: of the classes.
    """

    def __init__(self, size: int, names: Sequence[str]) -> None:
        self.size = size
        self.counts = {name: np.zeros(3, np.int64) for name in ("all", *names)}

    def add(self, table: pa.Table, index: pa.Table) -> None:
        """Count a part.

        Args:
            table: mask rows with image_id, finding, allowed and peaks in the frame.
            index: the dataset's rows of these images, for the place of each in its frame.
        """
        table = table.filter(pc.and_(table["allowed"], pc.is_valid(table["peak_row"])))
        ids, heights, widths = (index[name].to_pylist() for name in ("image_id", "height", "width"))
        content = {
            image_id: content_rectangle(height, width, self.size)
            for image_id, height, width in zip(ids, heights, widths, strict=True)
        }
        peaks = np.stack([table[name].to_numpy() for name in ("peak_row", "peak_column")], axis=1)
        places = np.array([content[i] for i in table["image_id"].to_pylist()]).reshape(-1, 4)
        found = np.stack(
            [np.ones(len(peaks), bool), in_corner(peaks, places), at_border(peaks, places)], axis=1
        )
        findings = np.array(table["finding"].to_pylist(), dtype=object)
        for name, counts in self.counts.items():
            counts += found[(findings == name) | (name == "all")].sum(axis=0)

    def shares(self) -> dict[str, dict[str, Any]]:
        """Return finding (or "all") -> {"maps", "corner", "border"}; shares, None without maps."""
        return {
            name: {
                "maps": int(maps),
                "corner": round(float(corner / maps), 4) if maps else None,
                "border": round(float(border / maps), 4) if maps else None,
            }
            for name, (maps, corner, border) in self.counts.items()
        }


def localization(valid: pa.Table, read: pa.Table, size: int) -> list[dict[str, Any]]:
    """Compare the validation images' pseudo-labels with the experts' masks, a row a finding.

    Args:
        valid: mask rows of validation images.
        read: the dataset's rows of those that an expert read.
    """
    drawn, content = {}, {}
    for row in read.select(["image_id", "height", "width", "small_masks"]).to_pylist():
        top, bottom, left, right = content_rectangle(row["height"], row["width"], size)
        content[row["image_id"]] = (bottom - top) * (right - left)
        drawn[row["image_id"]] = {m["finding"]: m["counts"] for m in row["small_masks"]}
    return [
        {key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(item).items()}
        for item in locate(valid, drawn, content, size)
    ]


def describe_localization(summary: Mapping[str, Any]) -> str:
    """Return the localization check as a table; empty without expert masks to compare with."""
    found = lines(summary.get("localization", []))
    if not found:
        return ""
    return "\n".join(["saliency beside the expert masks of validation images:", *found])


def describe_peaks(summary: Mapping[str, Any]) -> str:
    """Say in a line whether maps peak where no finding is; empty where there is no map."""
    peaks = summary.get("peaks", {}).get("all", {})
    if not peaks.get("maps"):
        return ""
    return (
        f"saliency peaks: {peaks['corner']:.0%} in a corner of the image, {peaks['border']:.0%} at "
        "its border; anywhere at random would be 11% and 23%"
    )


@dataclass(frozen=True)
class Chosen:
    """An image and a finding to look at; `counts` is the pseudo-mask, at model size."""

    part: str
    image_id: str
    finding: str
    counts: str


def choose_cases(outputs: Artifact, dataset: Artifact, most: int) -> list[Chosen]:
    """Choose pseudo-masks of validation images, of as many findings as there are.

    Those that an expert drew too come first; else in the order of the dataset.
    """
    turns: list[tuple[int, bool, int, Chosen]] = []
    seen: dict[tuple[str, bool], int] = {}
    for part in dataset.parts("index/"):
        number = part.name.rpartition("/")[2]
        rows = dataset.table(part.name, ["image_id", "small_masks"]).to_pylist()
        drawn = {
            row["image_id"]: {item["finding"] for item in row["small_masks"] or []} for row in rows
        }
        table = outputs.table(f"masks/{number}", ["image_id", "split", "finding", "counts"])
        valid = pc.and_(pc.equal(table["split"], "valid"), pc.is_valid(table["counts"]))
        for row in table.filter(valid).to_pylist():
            undrawn = row["finding"] not in drawn[row["image_id"]]
            turn = seen[row["finding"], undrawn] = seen.get((row["finding"], undrawn), -1) + 1
            if turn < most:
                chosen = Chosen(f"rows/{number}", row["image_id"], row["finding"], row["counts"])
                turns.append((turn, undrawn, len(turns), chosen))
    # First every finding that an expert drew, once; then once more; then those that none drew.
    turns.sort(key=lambda item: (item[1], item[0], item[2]))
    return [item[3] for item in turns[:most]]


def _aurocs(table: pa.Table, index: pa.Table) -> dict[str, dict[str, float | None]]:
    """AUROC of each observation at study level, per split, of the averaged classifiers."""
    place = {image_id: number for number, image_id in enumerate(index["image_id"].to_pylist())}
    studies = [
        f"{patient}/{study}"
        for patient, study in zip(
            index["patient"].to_pylist(), index["study"].to_pylist(), strict=True
        )
    ]
    labels = label_array(index["labels"])
    result: dict[str, dict[str, float | None]] = {}
    for split in sorted(set(table["split"].to_pylist())):
        of = table.filter(pc.equal(table["split"], split))
        at = [place[image_id] for image_id in of["image_id"].to_pylist()]
        scores = label_array(of["probabilities"])
        each = study_auroc(scores, labels[at], [studies[i] for i in at])
        result[split] = {
            name: None if np.isnan(value) else round(float(value), 4)
            for name, value in zip(OBSERVATIONS, each, strict=True)
        }
    return result
