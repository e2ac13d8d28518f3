"""Putting a model into MLflow: an artifact's checkpoints as they are, a signature, and a loader.

With `sender.py` the only module that imports MLflow, and only inside functions. Nothing is
pickled; `served.py` is what loads the model again.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chexseg_platform.artifacts import Artifact


@contextmanager
def unpacked(artifact: Artifact) -> Iterator[Path]:
    """Writes an artifact's checkpoints into a folder that is removed afterwards.

    Raises:
        CorruptArtifact: they are gone or damaged.
    """
    with TemporaryDirectory() as folder:
        for part in artifact.parts("checkpoints/"):
            file = Path(folder) / part.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(artifact.read(part.name))
        yield Path(folder) / "checkpoints"


def fill_model(uri: str, run_id: str, name: str, model_id: str, folder: Path) -> None:
    """Uploads a folder of checkpoints as a pending logged model, which makes it ready."""
    import mlflow.pyfunc
    from mlflow.models import Model

    # What the best checkpoint says of itself.
    meta = json.loads((folder / "00" / "model.json").read_text())["meta"]
    extra = {
        field: meta["extra"][field] for field in ("size", "thresholds") if field in meta["extra"]
    }
    with _global_uri(uri), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises an input example; the signature says it all
        Model.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=model_id,
            loader_module="chexseg_platform.tracking.served",
            data_path=str(folder),
            signature=_signature(meta),
            metadata={"kind": meta["kind"], "classes": list(meta["spec"]["classes"]), **extra},
            pip_requirements=["chexseg-platform"],
        )


def _signature(meta: Mapping[str, Any]) -> Any:
    """Images in; out come maps of probabilities (segmenter), or a column a class (classifier)."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))])
    classes = meta["spec"]["classes"]
    if meta["kind"] == "classifier":
        return ModelSignature(images, Schema([ColSpec("float", name) for name in classes]))
    maps = TensorSpec(np.dtype(np.float32), (-1, len(classes), -1, -1))
    return ModelSignature(images, Schema([maps]))


@contextmanager
def _global_uri(uri: str) -> Iterator[None]:
    """Logging a model goes by MLflow's global address, which also sets an environment variable."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before or "")
        if before is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
