"""A segmenter at work: letterboxed images in, masks at their original resolution out.

The one way from a network's maps to a mask: the evaluation counts what comes out here, and
`predict` writes the same, so a score that was reported holds for the files that users get. (Only
rounding differs, with threads, batch and device: a pixel in one mask of a thousand or so.)

Names: S is the frame's side, K the segmenter's classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from chexseg_platform.data import geometry, masks
from chexseg_platform.data.store import content_rectangle
from chexseg_platform.findings import FINDINGS
from chexseg_platform.models.batch import forward_batch
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.models.segmenter import SegmenterSpec, load_segmenter
from chexseg_platform.training.segmentation import predict_batch, threshold_tensor


class Frame(NamedTuple):
    """An image in its frame, uint8 (S, S), and the height and width it had before."""

    pixels: NDArray[np.uint8]
    height: int
    width: int


class Segmented(NamedTuple):
    """What a segmenter says of an image.

    Attributes:
        masks: class -> COCO counts at original size; absent means empty.
        peaks: class -> original pixel (y, x) under its map's maximum.
        highest: class -> its greatest probability in the image, 0 to 1.
        maps_KSS: probabilities in the frame, float32.
    """

    masks: dict[str, str]
    peaks: dict[str, tuple[int, int]]
    highest: dict[str, float]
    maps_KSS: NDArray[np.float32]


def frame_of(image: NDArray[np.uint8], size: int) -> Frame:
    """Put a grey image (H, W) in a frame of `size`, as a dataset's images are."""
    height, width = image.shape
    return Frame(geometry.letterbox(image, geometry.Letterbox(height, width, size)), height, width)


class Segmenting:
    """A segmenter, loaded onto the GPU where there is one.

    Args:
        files: of its checkpoint, as `models.checkpoints.loads` takes them.
        size: side of the frames it is given.
    """

    def __init__(self, files: Mapping[str, bytes], size: int) -> None:
        self.size = size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, meta = load_segmenter(files)
        self.model = model.to(self.device)
        self.preprocess = Preprocess.from_dict(meta["preprocess"])
        self.classes = SegmenterSpec.from_dict(meta["spec"]).classes
        self.threshold = threshold_tensor(meta["extra"], self.classes).numpy()
        self.batch = forward_batch(self.device, size)
        """How many frames a forward takes."""

    def segment(self, frames: Sequence[Frame]) -> Iterator[Segmented]:
        """Yield what the segmenter says of each frame, `batch` frames a forward."""
        for start in range(0, len(frames), self.batch):
            some = frames[start : start + self.batch]
            for frame, maps in zip(some, self._probabilities(some), strict=True):
                box = geometry.Letterbox(frame.height, frame.width, self.size)
                peaks, highest = peaks_of(maps, box, self.classes)
                drawn = full_masks(maps, self.threshold, box, self.classes)
                yield Segmented(drawn, peaks, highest, maps)

    def _probabilities(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        content = [content_rectangle(frame.height, frame.width, self.size) for frame in frames]
        probability = predict_batch(
            self.model,
            self.preprocess,
            torch.from_numpy(np.stack([frame.pixels for frame in frames])).to(self.device),
            torch.from_numpy(np.array(content)).to(self.device),
        )
        return probability.cpu().numpy()


def full_masks(
    maps_KSS: NDArray[np.float32],
    threshold_K: NDArray[np.float32],
    box: geometry.Letterbox,
    classes: Sequence[str] = FINDINGS,
) -> dict[str, str]:
    """Bring maps back to an image's original size, cut them, encode what is not empty."""
    some = np.flatnonzero(maps_KSS.reshape(len(maps_KSS), -1).max(axis=1) >= threshold_K)
    out = {}
    for k in some:
        mask = geometry.restore(maps_KSS[k], box) >= threshold_K[k]
        if mask.any():
            out[classes[int(k)]] = masks.encode(mask)
    return out


def peaks_of(
    maps_KSS: NDArray[np.float32], box: geometry.Letterbox, classes: Sequence[str] = FINDINGS
) -> tuple[dict[str, tuple[int, int]], dict[str, float]]:
    """Return the original pixel under each map's first maximum within the image, and that value."""
    rows, columns = geometry.content(box)
    inner = maps_KSS[:, rows, columns]
    flat = inner.reshape(len(inner), -1)
    peaks, highest = {}, {}
    for k, place in enumerate(flat.argmax(axis=1)):
        row, column = divmod(int(place), inner.shape[2])
        peaks[classes[k]] = to_original(rows.start + row, columns.start + column, box)
        highest[classes[k]] = float(flat[k, place])
    return peaks, highest


def to_original(row: int, column: int, box: geometry.Letterbox) -> tuple[int, int]:
    """Return the original pixel under the centre of a frame pixel, kept inside the image."""
    y = int((row + 0.5 - box.top) * box.height / box.inner_height)
    x = int((column + 0.5 - box.left) * box.width / box.inner_width)
    return min(max(y, 0), box.height - 1), min(max(x, 0), box.width - 1)
