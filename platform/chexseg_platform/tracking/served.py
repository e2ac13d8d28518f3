"""Our models as MLflow serves them: uint8 images in, probabilities out.

MLflow calls `_load_pyfunc` by this module's name (its `loader_module`), with the folder that was
logged: a sub-folder a checkpoint, each with `weights.safetensors` and `model.json`. Several
checkpoints are averaged, as the pseudo-labels average them. Nothing is unpickled: MLflow stores
that folder, the name of this module and the signature, so loading needs this package installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 16
Content = tuple[int, int, int, int]


class Served:
    """Checkpoints of one kind, their probabilities averaged; images are letterboxed to their size.

    Give images as they were read: where the checkpoint says its size (`extra.size`), any other
    height and width is letterboxed to it. An image of that very size fills its frame, so one that
    was letterboxed before has its black padding taken for X-ray. 16 are computed at a time, so
    memory does not grow with their number.
    """

    def __init__(self, folder: Path) -> None:
        from chexseg_platform.models.preprocess import Preprocess

        loaded = [self._load(_files(place)) for place in sorted(folder.iterdir())]
        self._models = [(m, Preprocess.from_dict(meta["preprocess"])) for m, meta in loaded]
        self.meta: dict[str, Any] = loaded[0][1]
        self._size: int | None = self.meta.get("extra", {}).get("size")

    def _load(self, files: dict[str, bytes]) -> tuple[Any, dict[str, Any]]:
        """Rebuild a model from its two files."""
        raise NotImplementedError

    def _activate(self, model: Any, logits: Any) -> Any:
        """Logits -> probabilities."""
        raise NotImplementedError

    def _restore(self, probability: np.ndarray, box: Any) -> np.ndarray:
        """One image's probabilities, as the image was before its letterbox."""
        return probability

    def _predict(self, images: Any) -> np.ndarray:
        images_BHW = np.asarray(images)
        if images_BHW.dtype != np.uint8 or images_BHW.ndim != 3 or not images_BHW.size:
            raise ValueError(
                f"Give images as uint8 of shape (B, H, W), not {images_BHW.dtype} "
                f"of shape {images_BHW.shape}."
            )
        starts = range(0, len(images_BHW), CHUNK)
        return np.concatenate([self._chunk(images_BHW[at : at + CHUNK]) for at in starts])

    def _chunk(self, images_BHW: np.ndarray) -> np.ndarray:
        from chexseg_platform.data.geometry import Letterbox, letterbox

        height, width = images_BHW.shape[1:]
        if self._size is None or (height, width) == (self._size, self._size):
            return self._probabilities(images_BHW, None)
        box = Letterbox(height, width, self._size)
        frames_BSS = np.stack([letterbox(image, box) for image in images_BHW])
        content = (box.top, box.top + box.inner_height, box.left, box.left + box.inner_width)
        probabilities = self._probabilities(frames_BSS, content)
        return np.stack([self._restore(probability, box) for probability in probabilities])

    def _probabilities(self, frames_BSS: np.ndarray, content: Content | None) -> np.ndarray:
        import torch

        frames = torch.from_numpy(frames_BSS.copy())
        content_B4 = None if content is None else torch.tensor([content] * len(frames))
        with torch.inference_mode():
            each = [
                self._activate(model, model(preprocess(frames, content_B4)).float())
                for model, preprocess in self._models
            ]
            return torch.stack(each).mean(0).numpy()


class ServedSegmenter(Served):
    """What `mlflow.pyfunc.load_model` wraps for a segmenter."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """Images uint8 (B, H, W) -> probabilities float32 (B, K, H, W) in [0, 1].

        The K channels are the model's `metadata["classes"]`.

        Raises:
            ValueError: the images are not uint8 of three dimensions, or there are none.
        """
        return self._predict(images)

    def _load(self, files: dict[str, bytes]) -> tuple[Any, dict[str, Any]]:
        from chexseg_platform.models.segmenter import load_segmenter

        return load_segmenter(files)

    def _activate(self, model: Any, logits: Any) -> Any:
        return logits.sigmoid()

    def _restore(self, probability: np.ndarray, box: Any) -> np.ndarray:
        from chexseg_platform.data.geometry import restore

        return restore(probability, box)


class ServedClassifier(Served):
    """What `mlflow.pyfunc.load_model` wraps for a classifier."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Images uint8 (B, H, W) -> probabilities in [0, 1], a row an image.

        A column of float32 an observation, by its name.

        Raises:
            ValueError: the images are not uint8 of three dimensions, or there are none.
        """
        import pandas as pd

        return pd.DataFrame(self._predict(images), columns=list(self.meta["spec"]["classes"]))

    def _load(self, files: dict[str, bytes]) -> tuple[Any, dict[str, Any]]:
        from chexseg_platform.models.classifier import load_classifier

        return load_classifier(files)

    def _activate(self, model: Any, logits: Any) -> Any:
        return model.probabilities(logits)


def _files(folder: Path) -> dict[str, bytes]:
    from chexseg_platform.models.checkpoints import META, WEIGHTS

    return {name: (folder / name).read_bytes() for name in (META, WEIGHTS)}


def _load_pyfunc(path: str) -> Served:
    """MLflow's entry: `path` is the folder that was logged."""
    folder = Path(path)
    meta = json.loads((folder / "00" / "model.json").read_text())["meta"]
    return ServedClassifier(folder) if meta["kind"] == "classifier" else ServedSegmenter(folder)
