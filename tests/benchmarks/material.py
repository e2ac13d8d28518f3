"""What benchmarks work on: phantoms and real X-rays in CheXpert's layout, artifacts of them.

Everything lies in a temporary folder and is made once a run, by the stages themselves.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from chexseg_platform import config
from chexseg_platform.artifacts import Artifact, Workspace
from chexseg_platform.cluster import disconnect
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.data.store import Store, open_store
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier, dump_classifier
from chexseg_platform.models.preprocess import preset
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.ingest import ingest

REAL = Path(__file__).resolve().parents[2] / "../shared/data/real_cxr/CheXpert-v1.0"


@dataclass
class Place:
    """A temporary folder, the threads that both sides use, and what was made so far."""

    folder: Path
    threads: int
    _datasets: dict[tuple[int, int], Artifact] = field(default_factory=dict)

    def context(self, name: str = "workspace") -> Context:
        """Return a stage's context on a workspace of its own."""
        resources = config.Resources(cache=str(self.folder / "cache"))
        return Context(Workspace(self.folder / name), resources)

    def phantom(self, images: int, size: int) -> Path:
        """Return the folder of a phantom with so many training and a tenth validation images."""
        folder = self.folder / f"phantom-{images}-{size}"
        write_phantom(folder, train=images, valid=images // 10, test=0, size=size, seed=1)
        return folder

    def dataset(self, images: int, size: int) -> Artifact:
        """Return a dataset artifact of a phantom drawn at 5/4 of the size."""
        key = (images, size)
        if key not in self._datasets:
            wish = config.Phantom(train=images, valid=images // 10, test=0, size=size * 5 // 4)
            self._datasets[key] = ingest(self.context(), config.Data(phantom=wish, size=size))
            # Idle workers of Ray would still take a share of the cores.
            disconnect()
        return self._datasets[key]

    def store(self, images: int, size: int) -> Store:
        """Return that dataset ready for training."""
        return open_store(self.dataset(images, size), self.folder / "cache")

    def classifier(self, encoder: str, output_stride: int = 32) -> Artifact:
        """Return a classifier artifact with one checkpoint of random weights."""
        torch.manual_seed(0)
        model = build_classifier(ClassifierSpec(encoder=encoder, output_stride=output_stride))
        files = dump_classifier(model.eval(), preset("chexpert"))
        draft = self.context().workspace.draft("classifier", f"{encoder}-{output_stride}")
        parts = [draft.write(f"checkpoints/00/{name}", data) for name, data in files.items()]
        return draft.finish(parts, config={}, inputs={}, summary={"checkpoints": 1})


def repeated(root: Path, out: Path, copies: int) -> Path:
    """Return a CheXpert table of many more patients: every one of `root` several times.

    Their folders are links, so a few files become as many inputs as a real run has.
    """
    with open(root / "train.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    folder = out / "CheXpert-v1.0"
    (folder / "train").mkdir(parents=True)
    patients = {row["Path"].split("/")[2] for row in rows}
    for number, patient in enumerate(sorted(patients)):
        for copy in range(copies):
            link = folder / "train" / _renamed(number, copy, copies)
            link.symlink_to((root / "train" / patient).resolve(), target_is_directory=True)
    numbers = {patient: number for number, patient in enumerate(sorted(patients))}
    with open(folder / "train.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for copy in range(copies):
            writer.writerows(_row(row, numbers, copy, copies) for row in rows)
    return folder / "train.csv"


def _row(
    row: Mapping[str, str], numbers: Mapping[str, int], copy: int, copies: int
) -> dict[str, str]:
    start, split, patient, *rest = row["Path"].split("/")
    return {
        **row,
        "Path": "/".join([start, split, _renamed(numbers[patient], copy, copies), *rest]),
    }


def _renamed(number: int, copy: int, copies: int) -> str:
    return f"patient{number * copies + copy + 1:05d}"
