"""Nothing that names a person leaves a DICOM header: not into a dataset, a log, or MLflow.

The images carry a token in every attribute that can hold text, in private and nested ones, in the
preamble; afterwards everything that was written is searched for it, compressed or not.
"""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from chexseg_platform.findings import OBSERVATIONS
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

pytestmark = pytest.mark.ray

TOKEN = "QZXCANARY"
SPLITS = {"train": range(8), "valid": range(8, 12)}
TEXT = ("LO", "LT", "PN", "SH", "ST", "UC", "UT", "AE", "CS", "UR")
PIXELS = {
    "SpecificCharacterSet", "PhotometricInterpretation", "PresentationLUTShape", "VOILUTFunction",
    "Modality", "ImageType", "PixelPresentation", "LossyImageCompression", "RescaleType",
}  # fmt: skip
"""What says how pixels are to be read has to be true."""


def told(dataset: Dataset) -> int:
    """Put the token into every text attribute of the standard; return how many there are."""
    count = 0
    for tag, (kind, _, _, retired, keyword) in DicomDictionary.items():
        if kind in TEXT and keyword and not retired and keyword not in PIXELS and tag >> 16 > 4:
            if tag >> 16 in (0x0028, 0x5400) or (tag >> 16) & 0xFF00 in (0x5000, 0x6000):
                continue
            setattr(dataset, keyword, f"{TOKEN}{'.pdf' if kind == 'UR' else ''}")
            count += 1
    return count


def radiograph(number: int, size: int = 64) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    preamble = TOKEN.encode().ljust(128, b"\0")
    dataset = FileDataset("", {}, file_meta=meta, preamble=preamble)
    assert told(dataset) > 1000
    nested = Dataset()
    told(nested)
    dataset.RequestAttributesSequence = Sequence([nested])
    block = dataset.private_block(0x0009, TOKEN, create=True)
    block.add_new(0x01, "LO", TOKEN)
    dataset.Rows = dataset.Columns = size
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    noise = np.random.default_rng(number).integers(0, 4096, (size, size))
    dataset.PixelData = noise.astype(np.uint16).tobytes()
    return dataset


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CheXpert's layout: DICOM images of twelve patients, one cut off, one without pixels."""
    root = tmp_path_factory.mktemp("canary") / "CheXpert-v1.0"
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"]
    for split, numbers in SPLITS.items():
        rows = []
        for number in numbers:
            name = f"CheXpert-v1.0/{split}/patient{number:05d}/study1/view1_frontal.dcm"
            file = root.parent / name
            file.parent.mkdir(parents=True)
            radiograph(number).save_as(file, enforce_file_format=True)
            labels = [1.0 if (number + k) % 2 else 0.0 for k in range(len(OBSERVATIONS))]
            rows.append([name, "Female", 50, "Frontal", "PA", *labels])
        with (root / f"{split}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([[*header, *OBSERVATIONS], *rows])
    cut = root / "train/patient00000/study1/view1_frontal.dcm"
    cut.write_bytes(cut.read_bytes()[:-3000])
    empty = root / "train/patient00001/study1/view1_frontal.dcm"
    bare = radiograph(1)
    del bare.PixelData
    bare.save_as(empty, enforce_file_format=True)
    return root


def everything(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below a folder, and what a Parquet file holds as text."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            yield path, data
            if data[:4] == b"PAR1":
                table: pa.Table = pq.read_table(path)
                yield path, str(table.schema.metadata).encode()
                yield path, "\n".join(map(str, table.to_pylist())).encode()


def spoken(data: bytes) -> bool:
    return any(TOKEN.encode(code) in data for code in ("utf-8", "utf-16-le", "utf-16-be"))


def test_the_search_finds_what_it_looks_for(images: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [f"x{TOKEN}y"] * 3}), tmp_path / "a.parquet", compression="zstd")
    assert any(spoken(data) for _, data in everything(tmp_path))
    assert all(spoken(path.read_bytes()) for path in images.rglob("*.dcm"))


def test_no_identifier_leaves_the_header(images: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "name": "canary",
        "data": {
            "size": 64,
            "max_rejected": 0.5,
            "tables": [
                {"table": str(images / f"{split}.csv"), "root": str(images.parent), "split": split}
                for split in SPLITS
            ],
        },
        "classifier": {"encoder": "resnet18", "weights": None, "batch_size": 4, "epochs": 1},
        "resources": {"cache": str(tmp_path / "cache"), "timeout_minutes": 3.0},
    }
    (tmp_path / "canary.yaml").write_text(yaml.safe_dump(settings))
    short = Path(tempfile.mkdtemp(prefix="r"))  # Ray's logs; sockets lie there, too
    try:
        done = subprocess.run(
            [sys.executable, "-m", "chexseg_platform.cli", "--verbose", "classify", "canary.yaml",
             "--workspace", "ws"],
            cwd=tmp_path, env=os.environ | {"RAY_TMPDIR": str(short)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert "2 rejected" in done.stdout
        assert not spoken((done.stdout + done.stderr).encode())
        for folder in (tmp_path, short):
            found = [path for path, data in everything(folder) if spoken(data)]
            assert not found, found
    finally:
        shutil.rmtree(short, ignore_errors=True)
