"""A small segmenter with random weights, images to predict, and DICOM files made to order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from chexseg_platform.artifacts import Workspace
from chexseg_platform.data import masks
from chexseg_platform.data.phantom.dicom import write_dicom
from chexseg_platform.findings import FINDINGS
from chexseg_platform.models.preprocess import preset
from chexseg_platform.models.segmenter import SegmenterSpec, build_segmenter, dump_segmenter
from chexseg_platform.prediction.inputs import Input
from chexseg_platform.prediction.model import Model, read_model
from chexseg_platform.prediction.predicted import Predicted

SIZE = 32
NEVER = "Pneumothorax"
"""The finding whose threshold no pixel reaches."""


@pytest.fixture(scope="session")
def segmenter_files() -> dict[str, bytes]:
    """Random weights, so maps lie about one half, and thresholds that cut through them."""
    torch.manual_seed(0)
    spec = SegmenterSpec(architecture="Unet", options={"decoder_channels": (32, 16, 16, 8, 8)})
    thresholds = {name: 0.999 if name == NEVER else 0.5 for name in FINDINGS}
    extra = {"size": SIZE, "thresholds": thresholds}
    return dump_segmenter(build_segmenter(spec).eval(), spec, preset("chexpert"), extra)


@pytest.fixture(scope="session")
def segmenter(segmenter_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished segmenter artifact."""
    draft = Workspace(tmp_path_factory.mktemp("workspace")).draft("segmenter", "0" * 16)
    parts = [draft.write(f"checkpoints/00/{name}", data) for name, data in segmenter_files.items()]
    return Path(draft.finish(parts, config={}, inputs={}, seed=0).uri)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Segmenters of other classes, random too."""

    def make(*classes: str) -> Model:
        torch.manual_seed(0)
        options = {"decoder_channels": (32, 16, 16, 8, 8)}
        spec = SegmenterSpec(architecture="Unet", classes=classes, options=options)
        extra = {"size": SIZE, "thresholds": dict.fromkeys(classes, 0.5)}
        folder = tmp_path_factory.mktemp("other")
        files = dump_segmenter(build_segmenter(spec).eval(), spec, preset("chexpert"), extra)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return read_model(str(folder))

    return make


@pytest.fixture(scope="session")
def model(segmenter: Path) -> Model:
    return read_model(str(segmenter))


def picture(height: int, width: int, seed: int = 0, kind: type = np.uint8) -> np.ndarray:
    """Noise on a ramp, so that every image has something in it."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(kind).max if kind is np.uint8 else 4095
    ramp = np.linspace(0, 0.6 * top, width)[None] + rng.uniform(0, 0.4 * top, (height, width))
    return ramp.astype(kind)


def radiograph(path: Path, pixels: np.ndarray, **attributes: Any) -> Path:
    """Write a DICOM file as the phantom's are, some attributes changed, those of None removed."""
    write_dicom(path, pixels.astype(np.uint16), "MONOCHROME2", path.name)
    if attributes:
        data = pydicom.dcmread(path)
        for name, value in attributes.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        data.save_as(path)
    return path


def predicted(
    name: str,
    drawn: dict[str, np.ndarray],
    height: int = 6,
    width: int = 4,
    path: str = "",
    classes: Sequence[str] = FINDINGS,
) -> Predicted:
    """An image with these masks."""
    source = Input(name, Path(path or f"{name}.png"), f"{name}.png")
    return Predicted(
        source=source,
        height=height,
        width=width,
        masks={finding: masks.encode(mask) for finding, mask in drawn.items()},
        peaks=dict.fromkeys(classes, (1, 2)),
        highest={name: round(0.1 * k, 1) for k, name in enumerate(classes)},
    )


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., np.ndarray]:
    return picture


@pytest.fixture(scope="session")
def make_radiograph() -> Callable[..., Path]:
    return radiograph


@pytest.fixture(scope="session")
def make_predicted() -> Callable[..., Predicted]:
    return predicted
